// Plays every scenario with the Google Gen AI SDK for Node.js; the twin of gemini_python.py. The last argument is the
// folder that holds the SDK.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [, , modules, baseUrl, key] = process.argv;
const require = createRequire(pathToFileURL(`${modules}/`));
const { GoogleGenAI, Type, ApiError } = await import(pathToFileURL(require.resolve('@google/genai')).href);
const { version } = JSON.parse(readFileSync(`${modules}/@google/genai/package.json`));

const model = 'demo';
const client = (apiKey) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl, timeout: 60_000 } });
const sdk = client(key);
const script = (directions) => 'SCRIPT ' + JSON.stringify(directions);
const ask = (contents, config = {}) => sdk.models.generateContent({ model, contents, config });
const tell = (contents, config = {}) => sdk.models.generateContentStream({ model, contents, config });

async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { code: error.status };
  }
  return { code: null };
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks) => chunks.map((chunk) => chunk.text ?? '').join('');

const declaration = {
  name: 'weather',
  description: 'Tells the weather.',
  parameters: { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ['city'] },
};
const tools = [{ functionDeclarations: [declaration] }];

const scenarios = {
  async plain() {
    const answer = await ask('hello there', { systemInstruction: 'Be kind.', temperature: 0.5, topK: 3 });
    const usage = answer.usageMetadata;
    return {
      text: answer.text,
      finish: answer.candidates[0].finishReason,
      role: answer.candidates[0].content.role,
      model: answer.modelVersion,
      id: answer.responseId.slice(0, 4),
      usage_adds_up:
        usage.totalTokenCount === usage.promptTokenCount + usage.candidatesTokenCount && usage.totalTokenCount > 0,
    };
  },
  async stream() {
    const chunks = await all(tell('hello there'));
    return {
      text: textOf(chunks),
      finish: chunks.flatMap((chunk) => chunk.candidates.map((one) => one.finishReason).filter(Boolean)),
      usages: chunks.filter((chunk) => chunk.usageMetadata).length,
    };
  },
  slow_stream: async () => textOf(await all(tell(script({ text: ['a', 'b', 'c'], delay: 0.7 })))),
  slow_start: async () => textOf(await all(tell(script({ text: ['late'], first_delay: 1 })))),
  async thoughts() {
    const prompt = script({ reasoning: ['hm'], text: ['yes'] });
    const shown = await ask(prompt, { thinkingConfig: { includeThoughts: true } });
    const hidden = await ask(prompt);
    return {
      shown: shown.candidates[0].content.parts.map((part) => [part.text, Boolean(part.thought)]),
      text: shown.text,
      hidden: hidden.candidates[0].content.parts.map((part) => part.text),
      thoughts: shown.usageMetadata.thoughtsTokenCount,
    };
  },
  async tools() {
    const prompt = script({ tool_calls: [{ name: 'weather', arguments: ['{"city":', ' "Rome"}'] }] });
    const question = { role: 'user', parts: [{ text: prompt }] };
    const first = await ask([question], { tools });
    const [call] = first.functionCalls;
    const said = first.candidates[0].content;
    const result = { id: call.id, name: call.name, response: { sky: 'blue' } };
    const second = await ask([question, said, { role: 'user', parts: [{ functionResponse: result }] }], { tools });
    const nameless = { name: 'weather', response: { sky: 'grey' } };
    const third = await ask([question, said, { role: 'user', parts: [{ functionResponse: nameless }] }], { tools });
    const streamed = await all(tell([question], { tools }));
    const forced = await ask('hi', { tools, toolConfig: { functionCallingConfig: { mode: 'ANY' } } });
    return {
      plain: [call.name, call.args, first.candidates[0].finishReason],
      answer: second.text,
      without_id: third.text,
      stream: streamed.flatMap((chunk) => (chunk.functionCalls ?? []).map((one) => [one.name, one.args])),
      forced: forced.functionCalls.map((one) => one.name),
    };
  },
  async chat() {
    const talk = sdk.chats.create({ model });
    const first = (await talk.sendMessage({ message: 'one' })).text;
    const second = textOf(await all(talk.sendMessageStream({ message: 'two' })));
    return [first, second, talk.getHistory(true).filter((one) => one.role === 'user').length];
  },
  async json_schema() {
    const fields = { city: { type: Type.STRING }, count: { type: Type.INTEGER } };
    const schema = { type: Type.OBJECT, properties: fields, required: ['city', 'count'] };
    const other = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
    const found = await ask('where?', { responseMimeType: 'application/json', responseSchema: schema });
    const plain = await ask('where?', { responseMimeType: 'application/json', responseJsonSchema: other });
    const kind = (value) => (typeof value === 'string' ? 'str' : Number.isInteger(value) ? 'int' : typeof value);
    return [found, plain].map((one) =>
      Object.fromEntries(Object.entries(JSON.parse(one.text)).map(([name, value]) => [name, kind(value)])),
    );
  },
  async vision() {
    const data = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC'; // one pixel
    const parts = [{ text: 'what is this?' }, { inlineData: { mimeType: 'image/png', data } }];
    const linked = { fileData: { fileUri: 'https://example.org/a.png', mimeType: 'image/png' } };
    return (await ask([{ role: 'user', parts: [...parts, linked] }])).text;
  },
  async logprobs() {
    const [candidate] = (await ask('hi', { responseLogprobs: true, logprobs: 2 })).candidates;
    const { chosenCandidates, topCandidates } = candidate.logprobsResult;
    return [chosenCandidates.map((one) => one.token), candidate.avgLogprobs, topCandidates[0].candidates.length];
  },
  candidates: async () => (await ask('hi', { candidateCount: 2 })).candidates.map((one) => one.content.parts[0].text),
  async length() {
    const answer = await ask(script({ text: ['a', 'b', 'c'] }), { maxOutputTokens: 2 });
    return [answer.text, answer.candidates[0].finishReason];
  },
  stop: async () => (await ask(script({ text: ['one ', 'two ', 'three'] }), { stopSequences: ['two'] })).text,
  async safety() {
    const setting = { category: 'HARM_CATEGORY_HARASSMENT', threshold: 'BLOCK_ONLY_HIGH' };
    const prompt = script({ text: ['a'], finish: 'content_filter' });
    const filtered = await ask(prompt, { safetySettings: [setting] });
    const refused = script({ fail_before: { reason: 'CONTENT_FILTERED', message: 'no' } });
    const blocked = await ask(refused);
    const chunks = await all(tell(refused));
    return [
      filtered.candidates[0].finishReason,
      blocked.promptFeedback.blockReason,
      chunks.map((chunk) => chunk.promptFeedback.blockReason),
    ];
  },
  async models() {
    const names = [];
    for await (const one of await sdk.models.list()) names.push(one.name.replace('models/', ''));
    return [names.includes(model), (await sdk.models.get({ model })).name];
  },
  async failures() {
    const limited = script({ fail_before: { reason: 'PROVIDER_RATE_LIMITED', message: 'slow down' } });
    return {
      unknown_model: await failure(() => sdk.models.generateContent({ model: 'no/such', contents: 'hi' })),
      wrong_key: await failure(() => client('dgm_nobody').models.get({ model })),
      wrong_value: await failure(() => ask('hi', { temperature: 9 })),
      search: await failure(() => ask('hi', { tools: [{ googleSearch: {} }] })),
      cache: await failure(() => ask('hi', { cachedContent: 'cachedContents/a' })),
      limited: await failure(() => ask(limited)),
      limited_stream: await failure(() => all(tell(limited))),
      count: await failure(() => sdk.models.countTokens({ model, contents: 'hi' })),
    };
  },
  async fails_midway() {
    const said = [];
    const stop = { after: 2, reason: 'PROVIDER_FAILED', message: 'it broke' };
    const error = await failure(async () => {
      for await (const chunk of await tell(script({ text: ['a', 'b', 'c'], fail_after: stop }))) said.push(chunk.text);
    });
    return { error, said };
  },
};

const outcomes = { version };
for (const [name, scenario] of Object.entries(scenarios)) outcomes[name] = await scenario();
console.log(JSON.stringify(outcomes));
