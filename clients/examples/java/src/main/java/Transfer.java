import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import dev.keepbest.v1.FileState;
import dev.keepbest.v1.PrepareFileRequest;
import dev.keepbest.v1.ReadFileRequest;
import dev.keepbest.v1.ReadFileResponse;
import dev.keepbest.v1.Version;
import dev.keepbest.v1.WriteFileRequest;
import io.grpc.Context;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/** Files, to the server and back. */
final class Transfer {
  /** Bytes of a file in one message. The whole message has at most 4 MiB. */
  private static final int PIECE_BYTES = 1 << 20;

  private final Calls calls;
  private final long attempt;

  Transfer(Calls calls, long attempt) {
    this.calls = calls;
    this.attempt = attempt;
  }

  /** Writes a file of the checkpoint. Where it broke off, it asks how many bytes are durable and sends the rest. */
  void upload(String checkpoint, Path path) throws IOException {
    PrepareFileRequest prepare = PrepareFileRequest.newBuilder()
        .setCheckpoint(checkpoint).setAttempt(attempt).setPath(path.getFileName().toString())
        .setSizeBytes(Files.size(path)).setSha256(ByteString.copyFrom(digestOf(path))).build();
    calls.retry(() -> {
      dev.keepbest.v1.File file = calls.checkpoints().prepareFile(prepare);
      return file.getState() == FileState.FILE_STATE_COMPLETE ? file : write(prepare, path, file.getDurableBytes());
    });
  }

  private dev.keepbest.v1.File write(PrepareFileRequest prepare, Path path, long offset) {
    try (FileChannel source = FileChannel.open(path).position(offset)) {
      Upload upload = new Upload(prepare, source, offset);
      calls.uploads().writeFile(upload);
      return upload.answer.join();
    } catch (CompletionException error) {
      throw (RuntimeException) error.getCause();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** Sends the next piece whenever the connection takes one: without that, the whole file would wait in memory. */
  private static final class Upload implements ClientResponseObserver<WriteFileRequest, dev.keepbest.v1.File> {
    final CompletableFuture<dev.keepbest.v1.File> answer = new CompletableFuture<>();
    private final FileChannel source;
    private final long size;
    private WriteFileRequest.Builder message;
    private long offset;

    Upload(PrepareFileRequest prepare, FileChannel source, long offset) {
      this.source = source;
      this.size = prepare.getSizeBytes();
      this.offset = offset;
      this.message = WriteFileRequest.newBuilder()
          .setCheckpoint(prepare.getCheckpoint()).setAttempt(prepare.getAttempt())
          .setPath(prepare.getPath()).setOffsetBytes(offset);
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<WriteFileRequest> stream) {
      stream.setOnReadyHandler(() -> send(stream));
    }

    private void send(ClientCallStreamObserver<WriteFileRequest> stream) {
      try {
        while (stream.isReady() && message != null) {
          ByteBuffer piece = ByteBuffer.allocate((int) Math.min(PIECE_BYTES, size - offset));
          while (piece.hasRemaining() && source.read(piece) >= 0) {}
          offset += piece.position();
          boolean finish = offset >= size;
          stream.onNext(message.setData(UnsafeByteOperations.unsafeWrap(piece.flip())).setFinish(finish).build());
          message = finish ? null : WriteFileRequest.newBuilder();
          if (finish) {
            stream.onCompleted();
          }
        }
      } catch (IOException error) {
        answer.completeExceptionally(new UncheckedIOException(error));
        stream.cancel("the file could not be read", error);
      }
    }

    @Override
    public void onNext(dev.keepbest.v1.File file) {
      answer.complete(file);
    }

    @Override
    public void onError(Throwable error) {
      answer.completeExceptionally(error);
    }

    @Override
    public void onCompleted() {}
  }

  /** Writes a version's first file to a path and compares its digest with the one that was declared. */
  byte[] download(Version version, Path path) throws IOException {
    dev.keepbest.v1.File file = version.getFiles(0);
    try (FileChannel target = FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
      target.truncate(0);
      calls.retry(() -> read(version, file, target));
    }
    byte[] digest = digestOf(path);
    if (!MessageDigest.isEqual(digest, file.getSha256().toByteArray())) {
      throw new IllegalStateException(path + " has SHA-256 " + HexFormat.of().formatHex(digest)
          + ", but " + HexFormat.of().formatHex(file.getSha256().toByteArray()) + " was saved");
    }
    return digest;
  }

  /** Goes on behind what is there. An alias may move in between: a version's own name stands for these bytes only. */
  private Void read(Version version, dev.keepbest.v1.File file, FileChannel target) {
    Context.CancellableContext call = Context.current().withCancellation();
    Context before = call.attach();
    try {
      if (target.size() < file.getSizeBytes()) {
        Iterator<ReadFileResponse> answers = calls.downloads().readFile(ReadFileRequest.newBuilder()
            .setVersion(version.getName()).setPath(file.getPath()).setOffsetBytes(target.size()).build());
        while (answers.hasNext()) {
          ReadFileResponse answer = answers.next();
          ByteBuffer data = answer.getData().asReadOnlyByteBuffer();
          for (long at = answer.getOffsetBytes(); data.hasRemaining(); ) {
            at += target.write(data, at);
          }
        }
      }
      return null;
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    } finally {
      call.detach(before);
      call.cancel(null);
    }
  }

  private static byte[] digestOf(Path path) throws IOException {
    try (FileChannel source = FileChannel.open(path)) {
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      ByteBuffer piece = ByteBuffer.allocate(PIECE_BYTES);
      while (source.read(piece) >= 0) {
        digest.update(piece.flip());
        piece.clear();
      }
      return digest.digest();
    } catch (NoSuchAlgorithmException error) {
      throw new IllegalStateException(error);
    }
  }
}
