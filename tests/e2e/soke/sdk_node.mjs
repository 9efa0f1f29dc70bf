/**
 * Speaks to Soke's API with OpenAI's SDK for Node.js, and prints what came of it as JSON.
 *
 * Arguments: the folder of the SDK's node_modules, base URL, key.
 */
import { createRequire } from "node:module";

const [modules, baseURL, key] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { OpenAI } = require("openai");

const options = { baseURL, apiKey: "not a key", maxRetries: 0, timeout: 60_000 };
const clients = [
  new OpenAI({ ...options, defaultHeaders: { "X-Soke-Key": key } }),
  new OpenAI({ ...options, defaultHeaders: { "X-Soke-Key": key, Authorization: null } }),
  new OpenAI({ ...options, apiKey: key }),
];
const messages = [{ role: "user", content: "hi" }];
const ask = (client, more = {}) => client.chat.completions.create({ model: "soke-v1", messages, ...more });

async function all(stream) {
  const found = [];
  for await (const chunk of stream) found.push(chunk);
  return found;
}

const found = { said: [], data: [] };
for (const client of clients) {
  const { message } = (await ask(client, { platform: "youtube" })).choices[0];
  found.said.push(message.content);
  found.data.push(message.data);
}
const chunks = await all(await ask(clients[0], { stream: true, stream_options: { format: "openai" } }));
found.chunks = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
found.last = [chunks.at(-1).choices[0].finish_reason, chunks.at(-1).data, chunks.at(-1).conversation_id];
found.frames = (await all(await ask(clients[0], { stream: true }))).map((frame) => frame.type);
try {
  await ask(clients[0], { platform: "tiktok" });
} catch (error) {
  found.failure = [error.status, error.code];
}
console.log(JSON.stringify(found));
