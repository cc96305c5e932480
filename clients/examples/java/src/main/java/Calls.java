import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.keepbest.v1.ArtifactsGrpc;
import dev.keepbest.v1.CheckpointsGrpc;
import dev.keepbest.v1.RunsGrpc;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.time.Instant;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Calls that are made until they work, fail for good, or took longer than our patience. */
final class Calls {
  /** Of a call that is one question and one answer. */
  private static final long DEADLINE_SECONDS = 30;
  private static final Duration PATIENCE = Duration.ofMinutes(5);
  private static final long LONGEST_PAUSE_MS = 5_000;

  private final ManagedChannel channel;

  Calls(ManagedChannel channel) {
    this.channel = channel;
  }

  // A deadline counts from when the stub is made, so each try makes its own. While there is no connection it waits for one.

  RunsGrpc.RunsBlockingStub runs() {
    return RunsGrpc.newBlockingStub(channel).withWaitForReady().withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
  }

  CheckpointsGrpc.CheckpointsBlockingStub checkpoints() {
    return CheckpointsGrpc.newBlockingStub(channel).withWaitForReady()
        .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
  }

  ArtifactsGrpc.ArtifactsBlockingStub artifacts() {
    return ArtifactsGrpc.newBlockingStub(channel).withWaitForReady().withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
  }

  /** No deadline: an upload takes as long as it takes, and the server ends one that stands still. */
  CheckpointsGrpc.CheckpointsStub uploads() {
    return CheckpointsGrpc.newStub(channel).withWaitForReady();
  }

  ArtifactsGrpc.ArtifactsBlockingStub downloads() {
    return ArtifactsGrpc.newBlockingStub(channel).withWaitForReady();
  }

  /** Repeats a call: every call of the API may be repeated. */
  <T> T retry(Supplier<T> call) {
    Instant end = Instant.now().plus(PATIENCE);
    for (long pause = 100; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        if (!mayPass(error) || Instant.now().isAfter(end)) {
          throw error;
        }
        sleep(Math.max(pause / 2 + ThreadLocalRandom.current().nextLong(pause / 2), toldPause(error)));
        // Its own backoff grows to two minutes and cannot be set: each of our tries connects at once instead.
        channel.resetConnectBackoff();
      }
    }
  }

  /**
   * An error without ErrorInfo is the transport's; the server says with its code or RetryInfo whether trying again may help.
   */
  private static boolean mayPass(StatusRuntimeException error) {
    Status.Code code = error.getStatus().getCode();
    return code == Status.Code.UNAVAILABLE || code == Status.Code.ABORTED || code == Status.Code.DEADLINE_EXCEEDED
        || detail(error, ErrorInfo.class).isEmpty() || detail(error, RetryInfo.class).isPresent();
  }

  private static long toldPause(StatusRuntimeException error) {
    return detail(error, RetryInfo.class).map(it -> it.getRetryDelay())
        .map(it -> it.getSeconds() * 1_000 + it.getNanos() / 1_000_000).orElse(0L);
  }

  private static <D extends Message> Optional<D> detail(Throwable error, Class<D> kind) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status == null) {
      return Optional.empty();
    }
    return status.getDetailsList().stream().filter(it -> it.is(kind)).findFirst().map(it -> unpack(it, kind));
  }

  private static <D extends Message> D unpack(Any detail, Class<D> kind) {
    try {
      return detail.unpack(kind);
    } catch (InvalidProtocolBufferException error) {
      throw new IllegalStateException(error);
    }
  }

  /** What the server refused, its reason first. */
  static String describe(RuntimeException error) {
    return detail(error, ErrorInfo.class)
        .map(it -> it.getReason() + ": " + Status.fromThrowable(error).getDescription() + " " + it.getMetadataMap())
        .orElse(String.valueOf(error));
  }

  private static void sleep(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(error);
    }
  }
}
