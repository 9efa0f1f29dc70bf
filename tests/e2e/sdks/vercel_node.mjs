// Plays every scenario with the Vercel AI SDK, and prints what came of each as JSON. Run by test_frameworks.py; the
// first argument is the folder that holds the SDK.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [, , modules, baseURL, apiKey, model] = process.argv;
const require = createRequire(pathToFileURL(`${modules}/`));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { APICallError, generateObject, generateText, jsonSchema, streamText, tool } = await load('ai');
const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
const { version } = JSON.parse(readFileSync(`${modules}/ai/package.json`));

const house = createOpenAICompatible({
  name: 'house', baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const script = (directions) => 'SCRIPT ' + JSON.stringify(directions);
const object = (properties) => ({
  type: 'object', properties, required: Object.keys(properties), additionalProperties: false,
});
const tools = {
  weather: tool({ description: 'Tells the weather.', inputSchema: jsonSchema(object({ city: { type: 'string' } })) }),
};
const calls = script({ tool_calls: [{ id: 'call_1', name: 'weather', arguments: ['{"city":', '"Rome"}'] }] });
const asked = (options, id = model) => ({ model: house(id), maxRetries: 0, ...options });
const told = (call) => [call.toolName, call.input, call.toolCallId];

async function plain() {
  const { text, finishReason, usage } = await generateText(asked({ system: 'Be kind.', prompt: 'hello there' }));
  return [text, finishReason, usage.totalTokens > usage.inputTokens && usage.inputTokens > 0];
}

async function stream() {
  const result = streamText(asked({ prompt: script({ text: ['a', 'b', 'c'] }) }));
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  return [pieces.join(''), pieces.length, (await result.usage).outputTokens];
}

async function toolCalls() {
  const whole = await generateText(asked({ prompt: calls, tools }));
  const streamed = streamText(asked({ prompt: calls, tools }));
  return [...whole.toolCalls, ...(await streamed.toolCalls)].map(told);
}

async function toolResult() {
  const id = { toolCallId: 'call_1', toolName: 'weather' };
  const messages = [
    { role: 'user', content: 'hi' },
    { role: 'assistant', content: [{ type: 'tool-call', ...id, input: { city: 'Rome' } }] },
    { role: 'tool', content: [{ type: 'tool-result', ...id, output: { type: 'text', value: 'sunny' } }] },
  ];
  return (await generateText(asked({ messages, tools }))).text;
}

async function structured() {
  const schema = jsonSchema(object({ city: { type: 'string' }, count: { type: 'integer' } }));
  return (await generateObject(asked({ schema, prompt: 'anything' }))).object;
}

async function failure(prompt, { id = model, streams = false } = {}) {
  let said = '';
  try {
    if (!streams) await generateText(asked({ prompt }, id));
    else {
      const result = streamText(asked({ prompt, onError: () => {} }, id));
      for await (const part of result.fullStream) {
        if (part.type === 'text-delta') said += part.text;
        if (part.type === 'error') throw part.error;
      }
    }
  } catch (error) {
    return [APICallError.isInstance(error) ? error.statusCode : null, said];
  }
  return ['no failure', said];
}

const limited = script({ fail_before: { reason: 'PROVIDER_RATE_LIMITED' } });
console.log(JSON.stringify({
  version,
  plain: await plain(),
  stream: await stream(),
  tools: await toolCalls(),
  tool_result: await toolResult(),
  structured: await structured(),
  unknown_model: await failure('hi', { id: 'no/such' }),
  rate_limited: await failure(limited),
  rate_limited_stream: await failure(limited, { streams: true }),
  fails_midway: await failure(script({ text: ['a', 'b'], fail_after: 2 }), { streams: true }),
}));
