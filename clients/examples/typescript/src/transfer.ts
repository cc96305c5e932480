// Files, to the server and back.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { FileHandle, open, stat } from "node:fs/promises";
import { basename } from "node:path";
import { ArtifactsClient, ReadFileRequest, ReadFileResponse } from "../gen/keepbest/v1/artifacts.js";
import { CheckpointsClient, PrepareFileRequest, WriteFileRequest } from "../gen/keepbest/v1/checkpoints.js";
import { File, FileState, Version } from "../gen/keepbest/v1/resources.js";
import { retry, unary, waiting } from "./retry.js";

/** Bytes of a file in one message. The whole message has at most 4 MiB. */
const PIECE_BYTES = 1 << 20;

async function digestOf(path: string): Promise<Buffer> {
  const digest = createHash("sha256");
  for await (const piece of createReadStream(path)) {
    digest.update(piece);
  }
  return digest.digest();
}

/** Writes a file of the checkpoint. Where it broke off, it asks how many bytes are durable and sends the rest. */
export async function upload(client: CheckpointsClient, checkpoint: string, attempt: number, path: string) {
  const prepare = PrepareFileRequest.fromPartial({
    checkpoint,
    attempt,
    path: basename(path),
    sizeBytes: (await stat(path)).size,
    sha256: await digestOf(path),
  });
  await retry(async () => {
    const file = await unary<PrepareFileRequest, File>(client, client.prepareFile, prepare);
    if (file.state !== FileState.FILE_STATE_COMPLETE) {
      await write(client, prepare, path, file.durableBytes);
    }
  });
}

/** Sends a file's bytes from an offset on, in one stream without a deadline. */
async function write(client: CheckpointsClient, prepare: PrepareFileRequest, path: string, offset: number) {
  const { checkpoint, attempt, path: name } = prepare;
  const source = await open(path);
  let ended = false;
  try {
    await new Promise<void>((done, failed) => {
      const stream = client.writeFile(waiting(), (error) => {
        ended = true;
        stream.emit("drain");
        error ? failed(error) : done();
      });
      const sending = async () => {
        let message = WriteFileRequest.fromPartial({ checkpoint, attempt, path: name, offsetBytes: offset });
        while (!ended) {
          const { bytesRead, buffer } = await source.read(Buffer.alloc(PIECE_BYTES), 0, PIECE_BYTES, offset);
          offset += bytesRead;
          message.data = buffer.subarray(0, bytesRead);
          message.finish = offset >= prepare.sizeBytes;
          // Waits until the connection has taken it: else the whole file would wait in memory.
          const taken = stream.write(message);
          if (message.finish) {
            return stream.end();
          }
          if (!taken && !ended) {
            await once(stream, "drain");
          }
          message = WriteFileRequest.fromPartial({});
        }
      };
      sending().catch((error) => {
        stream.cancel();
        failed(error);
      });
    });
  } finally {
    ended = true;
    await source.close();
  }
}

/** Writes a version's first file to a path and compares its digest with the one that was declared. */
export async function download(client: ArtifactsClient, version: Version, path: string): Promise<Buffer> {
  const [file] = version.files;
  const target = await open(path, "w");
  try {
    let offset = 0;
    await retry(async () => {
      if (offset < file.sizeBytes) {
        // An alias may move in between: the version's own name stands for these bytes only.
        const request = ReadFileRequest.fromPartial({ version: version.name, path: file.path, offsetBytes: offset });
        for await (const answer of client.readFile(request, waiting()) as AsyncIterable<ReadFileResponse>) {
          await writeAt(target, answer.data, answer.offsetBytes);
          offset = answer.offsetBytes + answer.data.length;
        }
      }
    });
  } finally {
    await target.close();
  }
  const digest = await digestOf(path);
  if (!digest.equals(file.sha256)) {
    const saved = Buffer.from(file.sha256).toString("hex");
    throw new Error(`${path} has SHA-256 ${digest.toString("hex")}, but ${saved} was saved`);
  }
  return digest;
}

async function writeAt(target: FileHandle, data: Buffer, offset: number) {
  for (let at = 0; at < data.length; ) {
    at += (await target.write(data, at, data.length - at, offset + at)).bytesWritten;
  }
}
