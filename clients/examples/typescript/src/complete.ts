// A training that loses nothing when the server or it itself is killed: complete.js ADDRESS RUN FOLDER.
import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ChannelOptions, credentials } from "@grpc/grpc-js";
import { ArtifactsClient, GetBestVersionRequest } from "../gen/keepbest/v1/artifacts.js";
import { CheckpointsClient, CommitCheckpointRequest } from "../gen/keepbest/v1/checkpoints.js";
import { Action, Decision, Event, EventKind, Strategy, Version } from "../gen/keepbest/v1/resources.js";
import { FinishRunRequest, ReportEventsRequest, ReportEventsResponse, RunsClient } from "../gen/keepbest/v1/runs.js";
import { StartRunRequest, StartRunResponse } from "../gen/keepbest/v1/runs.js";
import { describe, unary } from "./retry.js";
import { download, upload } from "./transfer.js";

const PROJECT = "teams/demo/projects/languages";
/** What the epochs of this training come to. */
const LOSSES = [0.9, 0.7, 0.8, 0.5, 0.3];

/** What a training needs of its channel. */
const CHANNEL: ChannelOptions = {
  // A server that is gone without a word is found, instead of waited for.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // Its own is two minutes: long after the server is back.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 5_000,
};

class Training {
  private constructor(
    private readonly runs: RunsClient,
    private readonly checkpoints: CheckpointsClient,
    private readonly artifacts: ArtifactsClient,
    private readonly run: string,
    private readonly attempt: number,
    private nextSequence: number,
    private readonly firstEpoch: number,
  ) {}

  /** Begins the run or goes on with it behind the newest version, whose weights a real training would load now. */
  static async start(address: string, runId: string): Promise<Training> {
    const insecure = credentials.createInsecure();
    const runs = new RunsClient(address, insecure, CHANNEL);
    const request = StartRunRequest.fromPartial({
      parent: PROJECT,
      runId,
      // New in each start of the process, and the same when the call is repeated.
      requestId: randomUUID(),
      strategy: Strategy.fromPartial({ filepath: "model-{epoch:02d}.bin", saveBestOnly: true }),
    });
    const started = await unary<StartRunRequest, StartRunResponse>(runs, runs.startRun, request);
    if (started.resumeFrom) {
      console.log(`resume from ${started.resumeFrom.name}`);
    }
    return new Training(
      runs,
      new CheckpointsClient(address, insecure, CHANNEL),
      new ArtifactsClient(address, insecure, CHANNEL),
      started.run!.name,
      started.attempt,
      started.nextSequence,
      started.resumeFrom ? started.resumeFrom.epoch + 1 : 0,
    );
  }

  async train(folder: string): Promise<void> {
    for (let epoch = this.firstEpoch; epoch < LOSSES.length; epoch++) {
      const file = join(folder, "model.bin");
      await fit(epoch, file);
      await this.endOfEpoch(epoch, file);
    }
    const finish = FinishRunRequest.fromPartial({ name: this.run, attempt: this.attempt });
    await unary(this.runs, this.runs.finishRun, finish);
    const ask = GetBestVersionRequest.fromPartial({ parent: this.run, includeFiles: true });
    const best = await unary<GetBestVersionRequest, Version>(this.artifacts, this.artifacts.getBestVersion, ask);
    const digest = await download(this.artifacts, best, join(folder, "best.bin"));
    console.log(`best ${best.name} ${digest.toString("hex")}`);
    for (const client of [this.runs, this.checkpoints, this.artifacts]) {
      client.close();
    }
  }

  private async endOfEpoch(epoch: number, file: string): Promise<void> {
    const metrics = { val_loss: LOSSES[epoch] };
    const event = Event.fromPartial({ kind: EventKind.EVENT_KIND_EPOCH_END, epoch, metrics });
    for (const decision of await this.report([event])) {
      if (decision.action === Action.ACTION_FAIL) {
        throw new Error(`epoch ${epoch}: ${decision.reasonText}`);
      }
      if (decision.action !== Action.ACTION_SAVE) {
        console.log(`epoch ${epoch} not saved: ${decision.reasonText}`);
        continue;
      }
      const { checkpoint } = decision;
      await upload(this.checkpoints, checkpoint, this.attempt, file);
      const commit = CommitCheckpointRequest.fromPartial({ checkpoint, attempt: this.attempt, fileCount: 1 });
      const version = await unary<CommitCheckpointRequest, Version>(
        this.checkpoints,
        this.checkpoints.commitCheckpoint,
        commit,
      );
      console.log(`epoch ${epoch} saved as ${version.name}`);
    }
  }

  /** Sends events until all are taken, and answers what was decided. */
  private async report(events: Event[]): Promise<Decision[]> {
    const decisions: Decision[] = [];
    while (events.length > 0) {
      const answer = await unary<ReportEventsRequest, ReportEventsResponse>(
        this.runs,
        this.runs.reportEvents,
        ReportEventsRequest.fromPartial({
          run: this.run,
          attempt: this.attempt,
          firstSequence: this.nextSequence,
          events,
        }),
      );
      decisions.push(...answer.decisions);
      events = events.slice(answer.nextSequence - this.nextSequence);
      this.nextSequence = answer.nextSequence;
    }
    return decisions;
  }
}

/** Stands for the training of an epoch: it leaves 20 MiB of weights. */
async function fit(epoch: number, file: string): Promise<void> {
  const weights = Buffer.alloc(20 << 20);
  for (let at = 0; at < weights.length; at++) {
    weights[at] = (at >> 20) ^ (epoch << 5) ^ at;
  }
  await writeFile(file, weights);
}

const [address, run, folder] = process.argv.slice(2);
try {
  const training = await Training.start(address, run);
  await training.train(folder);
} catch (error) {
  console.error(describe(error));
  process.exit(1);
}
