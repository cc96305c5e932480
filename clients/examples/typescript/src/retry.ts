// Calls that are made until they work, fail for good, or took longer than our patience.
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Metadata, ServiceError, status } from "@grpc/grpc-js";
import { ErrorInfo, RetryInfo } from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";

/** Of a call that is one question and one answer. */
const DEADLINE_MS = 30_000;
const PATIENCE_MS = 5 * 60_000;
const LONGEST_PAUSE_MS = 5_000;

/** While there is no connection a call waits for one, as long as its deadline allows. */
export function waiting(): Metadata {
  return new Metadata({ waitForReady: true });
}

/** Repeats a call: every call of the API may be repeated. */
export async function retry<A>(call: () => Promise<A>): Promise<A> {
  const end = Date.now() + PATIENCE_MS;
  for (let pause = 100; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      return await call();
    } catch (error) {
      if (!mayPass(error) || Date.now() > end) {
        throw error;
      }
      const told = detailsOf(error).retry?.retryDelay;
      const toldMs = told ? told.seconds * 1_000 + told.nanos / 1e6 : 0;
      await sleep(Math.max(toldMs, (pause * (1 + Math.random())) / 2));
    }
  }
}

/** Makes a call with a deadline, and repeats it. */
export function unary<Q, A>(client: Client, method: Function, request: Q): Promise<A> {
  return retry(
    () =>
      new Promise<A>((done, failed) => {
        const deadline = Date.now() + DEADLINE_MS;
        const answered = (error: ServiceError | null, answer: A) => (error ? failed(error) : done(answer));
        method.call(client, request, waiting(), { deadline }, answered);
      }),
  );
}

function detailsOf(error: unknown): { info?: ErrorInfo; retry?: RetryInfo } {
  const [bytes] = (error as ServiceError).metadata?.get("grpc-status-details-bin") ?? [];
  const found: { info?: ErrorInfo; retry?: RetryInfo } = {};
  for (const detail of bytes instanceof Buffer ? Status.decode(bytes).details : []) {
    if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) {
      found.info = ErrorInfo.decode(detail.value);
    } else if (detail.typeUrl.endsWith("/google.rpc.RetryInfo")) {
      found.retry = RetryInfo.decode(detail.value);
    }
  }
  return found;
}

/** An error without ErrorInfo is the transport's; the server says with its code or RetryInfo whether trying again may help. */
function mayPass(error: unknown): boolean {
  const { code } = error as ServiceError;
  if (typeof code !== "number") {
    return false; // Of no call: a file, or a mistake of ours.
  }
  const { info, retry } = detailsOf(error);
  const passing = [status.UNAVAILABLE, status.ABORTED, status.DEADLINE_EXCEEDED];
  return passing.includes(code) || info === undefined || retry !== undefined;
}

/** What the server refused, its reason first. */
export function describe(error: unknown): string {
  const { info } = detailsOf(error);
  return info ? `${info.reason}: ${(error as ServiceError).details} ${JSON.stringify(info.metadata)}` : String(error);
}
