// The same calls by Connect's own clients, in each protocol that they speak: calls.mjs URL DESCRIPTORS. Prints a line of JSON a protocol.
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const [baseUrl, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const service = (name) => registry.getService(`keepbest.v1.${name}`);

const transports = {
  "connect-json": createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  "connect-proto": createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true }),
  "connect-json-2": createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: false }),
  "grpc-web": createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  grpc: createGrpcTransport({ baseUrl, httpVersion: "2" }),
};

for (const [name, transport] of Object.entries(transports)) {
  const [runs, checkpoints, artifacts] = ["Runs", "Checkpoints", "Artifacts"].map((it) => createClient(service(it), transport));
  const strategy = { filepath: "best.bin", monitor: "loss", saveBestOnly: true };
  const started = await runs.startRun({ parent: "teams/default/projects/default", runId: name, strategy });
  const [run, attempt] = [started.run.name, started.attempt];
  const event = { kind: 2, epoch: 0, metrics: { loss: 0.25 } };
  const reported = await runs.reportEvents({ run, attempt, firstSequence: started.nextSequence, events: [event] });
  const { checkpoint } = reported.decisions[0];
  const data = new TextEncoder().encode(`weights of ${name}`);
  await checkpoints.writeSmallFiles({ checkpoint, attempt, files: [{ path: "best.bin", data }] });
  await checkpoints.commitCheckpoint({ checkpoint, attempt });
  const best = await artifacts.getBestVersion({ parent: run });
  const error = await runs.getRun({ name: `${run}-none` }).catch((it) => ConnectError.from(it));
  const [info] = error.findDetails(registry.getMessage("google.rpc.ErrorInfo"));
  console.log(JSON.stringify({ name, best: best.name, loss: best.metrics.loss, code: Code[error.code], reason: info.reason }));
}
