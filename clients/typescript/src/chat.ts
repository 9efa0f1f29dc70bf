/**
 * Streams one answer over gRPC: an example of the contract's TypeScript stubs.
 *
 *     DRAGOMAN_API_KEY=… npm run chat -- [--target host:port] [--model id] [--cancel-after n] prompt
 *
 * The answer goes to standard output, how the run ended to standard error. The exit status is 0 only if it completed.
 */
import { create } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { parseArgs } from "node:util";

import { CancelReason, type RunEvent } from "../gen/dragoman/v1/event_pb.js";
import { MessageSchema, Role } from "../gen/dragoman/v1/message_pb.js";
import { RunSpecSchema, type RunSpec } from "../gen/dragoman/v1/run_pb.js";
import { RunService } from "../gen/dragoman/v1/run_service_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";

const { values: options, positionals } = parseArgs({
  options: {
    target: { type: "string", default: "127.0.0.1:50051" },
    model: { type: "string", default: "" },
    "cancel-after": { type: "string", default: "0" },
  },
  allowPositionals: true,
});
const [prompt] = positionals;
if (prompt === undefined || positionals.length !== 1) {
  console.error("usage: chat [--target host:port] [--model id] [--cancel-after n] prompt");
  process.exit(2);
}

const authenticate: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${process.env.DRAGOMAN_API_KEY ?? ""}`);
  return next(request);
};
const runs = createClient(
  RunService,
  createGrpcTransport({ baseUrl: `http://${options.target}`, interceptors: [authenticate] }),
);

try {
  process.exitCode = (await chat(options.model, prompt, Number(options["cancel-after"]))) ? 0 : 1;
} catch (error) {
  explain(ConnectError.from(error));
  process.exitCode = 1;
}

/** Streams the answer and returns whether the run completed. */
async function chat(model: string, prompt: string, cancelAfter: number): Promise<boolean> {
  let pieces = 0;
  for await (const batch of runs.streamRun({ spec: chatSpec(model, prompt) })) {
    for (const event of batch.events) {
      if (event.kind.case === "textDelta") {
        process.stdout.write(event.kind.value.text);
        pieces++;
      }
      const completed = end(batch.runId, event);
      if (completed !== undefined) return completed;
    }
    if (cancelAfter > 0 && pieces >= cancelAfter) {
      cancelAfter = 0;
      await runs.cancelRun({ runId: batch.runId });
    }
  }
  throw new Error("the stream ended before the run did");
}

function chatSpec(model: string, prompt: string): RunSpec {
  const message = create(MessageSchema, {
    role: Role.USER,
    parts: [{ kind: { case: "text", value: { text: prompt } } }],
  });
  return create(RunSpecSchema, { work: { case: "chat", value: { model, messages: [message] } } });
}

/** Reports how the run ended, if this event ends it. */
function end(runId: string, { kind }: RunEvent): boolean | undefined {
  switch (kind.case) {
    case "runCompleted":
      console.error(`\n${runId} completed`);
      return true;
    case "runFailed":
      console.error(`\n${runId} failed: ${kind.value.failure?.reason}: ${kind.value.failure?.message}`);
      return false;
    case "runCancelled":
      console.error(`\n${runId} cancelled: ${CancelReason[kind.value.reason]}`);
      return false;
  }
}

/** Prints what a failed call says of itself: programs decide by the reason, never by the message. */
function explain(error: ConnectError): void {
  console.error(`${Code[error.code]}: ${error.rawMessage}`);
  for (const info of error.findDetails(ErrorInfoSchema)) console.error(`reason: ${info.reason}`);
  for (const bad of error.findDetails(BadRequestSchema)) {
    for (const violation of bad.fieldViolations) console.error(`field: ${violation.field}`);
  }
  for (const retry of error.findDetails(RetryInfoSchema)) {
    if (retry.retryDelay) console.error(`retry after: ${durationMs(retry.retryDelay)} ms`);
  }
}
