/**
 * Plays every scenario with the Alchemyst SDK for Node.js, and prints what came of each as JSON.
 *
 * Run by test_sdks.py; the twin of `sdk_python.py`, which prints the same.
 * Arguments: the folder of the SDK's node_modules, base URL, key.
 */
import { createRequire } from "node:module";

const [modules, baseURL, apiKey] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { AlchemystAI, APIError } = require("@alchemystai/sdk");
const { version } = require(`${modules}/@alchemystai/sdk/package.json`);

const CHAT = "/api/v1/chat";
const HISTORY = [{ role: "user", content: "hello there", id: "m-1" }];
const client = (key = apiKey) => new AlchemystAI({ baseURL, apiKey: key, maxRetries: 0, timeout: 60_000 });
const sdk = client();

const post = (path, body, query = {}, asking = sdk) => asking.post(CHAT + path, { body, query });
const get = (path) => sdk.get(CHAT + path);

async function stream(body) {
  const response = await sdk.post(`${CHAT}/generate/stream`, { body }).asResponse();
  const lines = (await response.text()).split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.replace(/^data: ?/, ""));
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return [error.status, Object.keys(error.error).sort()];
  }
  return null;
}

const direct = await post("", { chat_history: HISTORY });
const made = await post(
  "/generate",
  { chat_history: HISTORY, persona: "maya" },
  { title: "From the query", username: "joe" },
);
const { chatId } = made;
const longer = [
  ...HISTORY,
  { role: "assistant", content: made.result.message },
  { role: "user", content: "more" },
];
const frames = await stream({ chat_history: longer, chatId });
const done = frames.pop();
const [final, metadata] = frames.slice(-2).map((frame) => JSON.parse(frame));
const chat = (await get(`/fetch/${chatId}`)).data;
const fork = await post("/fork", { chatId, messageId: "m-1" });
const pinned = await sdk.put(`${CHAT}/${chatId}/pin`, { body: { pinned: true } });
const renamed = await sdk.patch(`${CHAT}/${chatId}`, { body: { title: "Renamed" } });
const saved = await post("/new", { title: "Saved", messages: HISTORY });
const deleted = await sdk.delete(`${CHAT}/${saved.chatId}`);
const forked = (await get(`/fetch/${fork.forkedChatId}`)).data;
const found = {
  version,
  direct: direct.result,
  generated: [made.result.response.kwargs.content, made.title],
  stream: [done, final.content, metadata.content.chatId === chatId],
  chat: [chat.messages.map((message) => message.message), chat.username],
  fork: forked.messages.map((message) => message.message),
  changed: [pinned.data.pinned, renamed.data.title],
  deleted: deleted.chatId === saved.chatId,
  history: (await get("/history")).chats.length,
  key: Object.keys(await sdk.get("/api/v1/settings/api-keys/validate")).sort(),
  failures: [
    await failure(() => post("/generate", {})),
    await failure(() => post("/generate", { chat_history: HISTORY }, {}, client("wrong"))),
    await failure(() => get(`/fetch/${saved.chatId}`)),
    await failure(() => post("/new", {})),
  ],
};
process.stdout.write(JSON.stringify(found));
