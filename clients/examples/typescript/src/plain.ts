// One save with nothing but the stubs: plain.js ADDRESS FILE.
import { credentials } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { promisify } from "node:util";
import { CheckpointsClient, WriteFileRequest } from "../gen/keepbest/v1/checkpoints.js";
import { Action, Event, EventKind, File, Strategy } from "../gen/keepbest/v1/resources.js";
import { ReportEventsRequest, ReportEventsResponse, RunsClient, StartRunRequest, StartRunResponse } from "../gen/keepbest/v1/runs.js";
import { CommitCheckpointRequest, PrepareFileRequest } from "../gen/keepbest/v1/checkpoints.js";
import { Version } from "../gen/keepbest/v1/resources.js";

/** A call as a promise. */
function ask<Q, A>(client: object, method: Function, request: Q): Promise<A> {
  return promisify(method).call(client, request) as Promise<A>;
}

const [address, path] = process.argv.slice(2);
const data = readFileSync(path);
const runs = new RunsClient(address, credentials.createInsecure());
const checkpoints = new CheckpointsClient(address, credentials.createInsecure());

const strategy = Strategy.fromPartial({ filepath: "model-{epoch:02d}.bin", saveBestOnly: true });
const start = StartRunRequest.fromPartial({ parent: "teams/demo/projects/typescript", strategy });
const { run, attempt, nextSequence } = await ask<StartRunRequest, StartRunResponse>(runs, runs.startRun, start);
const event = Event.fromPartial({ kind: EventKind.EVENT_KIND_EPOCH_END, epoch: 0, metrics: { val_loss: 0.25 } });
const report = ReportEventsRequest.fromPartial({ run: run!.name, attempt, firstSequence: nextSequence, events: [event] });
const { decisions: [{ action, checkpoint }] } = await ask<ReportEventsRequest, ReportEventsResponse>(runs, runs.reportEvents, report);
if (action === Action.ACTION_SAVE) {
  const prepare = PrepareFileRequest.fromPartial({ checkpoint, attempt, path: basename(path), sizeBytes: data.length });
  await ask<PrepareFileRequest, File>(checkpoints, checkpoints.prepareFile, prepare);
  await new Promise((done, failed) => {
    const stream = checkpoints.writeFile((error, file) => (error ? failed(error) : done(file)));
    let message = WriteFileRequest.fromPartial({ checkpoint, attempt, path: basename(path) });
    for (let at = 0; !message.finish; at += 1 << 20) {
      if (at > 0) message = WriteFileRequest.fromPartial({});
      message.data = data.subarray(at, at + (1 << 20));
      message.finish = at + (1 << 20) >= data.length;
      stream.write(message);
    }
    stream.end();
  });
  const commit = CommitCheckpointRequest.fromPartial({ checkpoint, attempt });
  console.log((await ask<CommitCheckpointRequest, Version>(checkpoints, checkpoints.commitCheckpoint, commit)).name);
}
runs.close();
checkpoints.close();
