/**
 * Plays every scenario with an OpenAI SDK for Node.js, and prints what came of each as JSON.
 *
 * Run by test_openai_sdks.py; the twin of `openai_python.py`, which prints the same.
 * Arguments: the folder of the SDK's node_modules, base URL, key.
 */
import { createRequire } from "node:module";

const [modules, baseURL, apiKey] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { OpenAI } = require("openai");
const { version } = require(`${modules}/openai/package.json`);

const MODEL = "demo";
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });

const ask = (prompt, options = {}) =>
  client.chat.completions.create({ model: MODEL, messages: [{ role: "user", content: prompt }], ...options });
const stream = (prompt, options = {}) => ask(prompt, { stream: true, ...options });
const script = (directions) => `SCRIPT ${JSON.stringify(directions)}`;

/** Returns what the SDK makes of a failure. */
async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const name = error.constructor.name;
    return error.status === undefined
      ? { class: name, code: error.code ?? null, message: error.message }
      : { class: name, status: error.status, code: error.code ?? null, param: error.param ?? null };
  }
  return { class: null };
}

async function drain(stream) {
  for await (const _ of stream);
}

/** Folds a stream: text, roles and finish reasons by choice, and the usage chunk. */
async function texts(stream) {
  const folded = { text: {}, roles: {}, finish: {}, usage: null };
  const ids = new Set();
  const models = new Set();
  for await (const chunk of stream) {
    ids.add(chunk.id);
    models.add(chunk.model);
    if (chunk.choices.length === 0) {
      folded.usage = chunk.usage.total_tokens - chunk.usage.prompt_tokens - chunk.usage.completion_tokens;
    } else if (chunk.usage) {
      folded.usage = "a chunk with choices has usage";
    }
    for (const { index, delta, finish_reason } of chunk.choices) {
      folded.text[index] = (folded.text[index] ?? "") + (delta.content ?? "");
      if (delta.role) (folded.roles[index] ??= []).push(delta.role);
      if (finish_reason) (folded.finish[index] ??= []).push(finish_reason);
    }
  }
  return { ...folded, ids: ids.size, models: [...models].sort() };
}

const textsOf = ({ choices: [choice] }) => [choice.message.content, choice.finish_reason];

const scenarios = {
  async plain() {
    const answer = await ask("hello there");
    const [choice] = answer.choices;
    const { total_tokens, prompt_tokens, completion_tokens } = answer.usage;
    return {
      text: choice.message.content,
      role: choice.message.role,
      finish: choice.finish_reason,
      object: answer.object,
      model: answer.model,
      id: answer.id.slice(0, 9),
      usage_adds_up: total_tokens === prompt_tokens + completion_tokens && total_tokens > 0,
    };
  },

  stream: async () => texts(await stream("hello there")),

  stream_usage: async () => texts(await stream("hello there", { stream_options: { include_usage: true } })),

  async choices() {
    const plain = await ask("hi", { n: 2 });
    return {
      plain: Object.fromEntries(plain.choices.map((choice) => [choice.index, choice.message.content])),
      stream: await texts(await stream("hi", { n: 2 })),
    };
  },

  async stop() {
    const prompt = script({ text: ["one ", "two ", "three"] });
    const streamed = await texts(await stream(prompt, { stop: "two" }));
    return { plain: textsOf(await ask(prompt, { stop: ["two"] })), stream: streamed.text };
  },

  length: async () => textsOf(await ask(script({ text: ["a", "b", "c"] }), { max_tokens: 2 })),

  async json_schema() {
    const schema = {
      type: "object",
      properties: { city: { type: "string" }, count: { type: "integer" } },
      required: ["city", "count"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "places", strict: true, schema } };
    const found = JSON.parse((await ask("where?", { response_format })).choices[0].message.content);
    const types = { string: "str", number: "int" };
    return Object.fromEntries(Object.entries(found).map(([name, value]) => [name, types[typeof value]]));
  },

  async tools() {
    const parameters = { type: "object", properties: { city: { type: "string" } } };
    const options = { tools: [{ type: "function", function: { name: "weather", parameters } }] };
    const prompt = script({ tool_calls: [{ name: "weather", arguments: ['{"city":', ' "Rome"}'] }] });
    const [choice] = (await ask(prompt, options)).choices;
    const [call] = choice.message.tool_calls;
    const names = [];
    let text = "";
    let finish = null;
    for await (const { choices } of await stream(prompt, options)) {
      for (const fragment of choices[0].delta.tool_calls ?? []) {
        if (fragment.function.name) names.push(fragment.function.name);
        text += fragment.function.arguments ?? "";
      }
      finish = choices[0].finish_reason ?? finish;
    }
    return {
      plain: [call.type, call.function.name, JSON.parse(call.function.arguments), choice.finish_reason],
      stream: [names, JSON.parse(text), finish],
    };
  },

  unknown_model: () => failure(() => ask("hi", { model: "no/such" })),

  wrong_key: () => failure(() => new OpenAI({ baseURL, apiKey: "dgm_nobody", maxRetries: 0 }).models.list()),

  wrong_parameter: () => failure(() => ask("hi", { temperature: 9 })),

  async rate_limited() {
    const prompt = script({ fail_before: { reason: "PROVIDER_RATE_LIMITED", message: "slow down" } });
    return { plain: await failure(() => ask(prompt)), stream: await failure(async () => drain(await stream(prompt))) };
  },

  async fails_midway() {
    const broken = { after: 2, reason: "PROVIDER_FAILED", message: "it broke" };
    let said = "";
    const failed = await failure(async () => {
      for await (const chunk of await stream(script({ text: ["a", "b", "c"], fail_after: broken }))) {
        said += chunk.choices[0]?.delta.content ?? "";
      }
    });
    return { failure: failed, said };
  },

  slow_start: async () => (await texts(await stream(script({ first_delay: 1.5, text: ["at ", "last"] })))).text,

  async slow_failure() {
    const prompt = script({ first_delay: 1.5, fail_before: { reason: "PROVIDER_FAILED", message: "it broke" } });
    return failure(async () => drain(await stream(prompt)));
  },

  silent_middle: async () => (await texts(await stream(script({ text: ["a", "b", "c"], delay: 1.0 })))).text,

  async many_events() {
    const prompt = script({ text: ["0123456789"], repeat: 5000, batch: 100 });
    return (await texts(await stream(prompt))).text[0].length;
  },

  /** Leaves a stream after its first text; the run's id tells the test where to look. */
  async cancel() {
    const prompt = script({ text: ["on "], repeat: 100_000, delay: 0.02 });
    const { data, response } = await stream(prompt).withResponse();
    for await (const { choices } of data) {
      if (choices[0]?.delta.content) break;
    }
    return { run: response.headers.get("x-dragoman-run-id") };
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed: listed.includes("demo"), one: (await client.models.retrieve("demo")).id };
  },

  async unicode() {
    const words = 'Grüß dich, 世界 🙂\u2028 "quoted" \\ end';
    const plain = (await ask(script({ text: [words] }))).choices[0].message.content;
    const streamed = (await texts(await stream(script({ text: [words] })))).text[0];
    return { plain: plain === words, stream: streamed === words };
  },
};

const outcomes = { version };
for (const [name, play] of Object.entries(scenarios)) {
  try {
    outcomes[name] = await play();
  } catch (error) {
    outcomes[name] = `${error.constructor.name}: ${error.message}`;
  }
}
process.stdout.write(JSON.stringify(outcomes));
