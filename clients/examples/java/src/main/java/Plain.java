import com.google.protobuf.ByteString;
import dev.keepbest.v1.*;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.stub.StreamObserver;
import java.nio.file.*;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** One save with nothing but the stubs: Plain ADDRESS FILE. */
class Plain {
  /** The one answer to a stream of ours. */
  static class Answer<T> extends CompletableFuture<T> implements StreamObserver<T> {
    public void onNext(T value) { complete(value); }
    public void onError(Throwable error) { completeExceptionally(error); }
    public void onCompleted() {}
  }

  public static void main(String[] args) throws Exception {
    var channel = Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
    var runs = RunsGrpc.newBlockingStub(channel);
    var checkpoints = CheckpointsGrpc.newBlockingStub(channel);

    var strategy = Strategy.newBuilder().setFilepath("model-{epoch:02d}.bin").setSaveBestOnly(true);
    var started = runs.startRun(StartRunRequest.newBuilder().setParent("teams/demo/projects/java").setStrategy(strategy).build());
    var attempt = started.getAttempt();
    var event = Event.newBuilder().setKind(EventKind.EVENT_KIND_EPOCH_END).setEpoch(0).putMetrics("val_loss", 0.25);
    var decision = runs.reportEvents(ReportEventsRequest.newBuilder().setRun(started.getRun().getName()).setAttempt(attempt)
        .setFirstSequence(started.getNextSequence()).addEvents(event).build()).getDecisions(0);
    if (decision.getAction() == Action.ACTION_SAVE) {
      Path file = Path.of(args[1]), name = file.getFileName();
      byte[] data = Files.readAllBytes(file);
      checkpoints.prepareFile(PrepareFileRequest.newBuilder().setCheckpoint(decision.getCheckpoint()).setAttempt(attempt)
          .setPath(name.toString()).setSizeBytes(data.length).build());
      var answer = new Answer<dev.keepbest.v1.File>();
      var stream = CheckpointsGrpc.newStub(channel).writeFile(answer);
      var message = WriteFileRequest.newBuilder().setCheckpoint(decision.getCheckpoint()).setAttempt(attempt).setPath(name.toString());
      for (int at = 0, end; message != null; at = end) {
        end = Math.min(at + (1 << 20), data.length);
        stream.onNext(message.setData(ByteString.copyFrom(data, at, end - at)).setFinish(end == data.length).build());
        message = end < data.length ? WriteFileRequest.newBuilder() : null;
      }
      stream.onCompleted();
      answer.get();
      System.out.println(checkpoints.commitCheckpoint(CommitCheckpointRequest.newBuilder()
          .setCheckpoint(decision.getCheckpoint()).setAttempt(attempt).build()).getName());
    }
    channel.shutdownNow();
  }
}
