import dev.keepbest.v1.*;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** A training that loses nothing when the server or it itself is killed: Complete ADDRESS RUN FOLDER. */
final class Complete {
  private static final String PROJECT = "teams/demo/projects/languages";
  /** What the epochs of this training come to. */
  private static final double[] LOSSES = {0.9, 0.7, 0.8, 0.5, 0.3};

  private final Calls calls;
  private final Transfer transfer;
  private final String run;
  private final long attempt;
  private final int firstEpoch;
  private long nextSequence;

  public static void main(String[] args) throws Exception {
    ManagedChannel channel = connect(args[0]);
    try {
      new Complete(channel, args[1]).train(Path.of(args[2]));
    } catch (RuntimeException error) {
      System.err.println(Calls.describe(error));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  /** What a training needs of its channel. Java has no setting for its reconnect backoff: see Calls. */
  private static ManagedChannel connect(String address) {
    return Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
        // A server that is gone without a word is found, instead of waited for.
        .keepAliveTime(20, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .build();
  }

  /** Begins the run or goes on with it behind the newest version, whose weights a real training would load now. */
  private Complete(ManagedChannel channel, String id) {
    calls = new Calls(channel);
    // New in each start of the process, and the same when the call is repeated.
    String requestId = UUID.randomUUID().toString();
    StartRunRequest request = StartRunRequest.newBuilder()
        .setParent(PROJECT).setRunId(id).setRequestId(requestId)
        .setStrategy(Strategy.newBuilder().setFilepath("model-{epoch:02d}.bin").setSaveBestOnly(true))
        .build();
    StartRunResponse started = calls.retry(() -> calls.runs().startRun(request));
    run = started.getRun().getName();
    attempt = started.getAttempt();
    nextSequence = started.getNextSequence();
    transfer = new Transfer(calls, attempt);
    if (started.hasResumeFrom()) {
      System.out.println("resume from " + started.getResumeFrom().getName());
      firstEpoch = (int) started.getResumeFrom().getEpoch() + 1;
    } else {
      firstEpoch = 0;
    }
  }

  private void train(Path folder) throws IOException {
    for (int epoch = firstEpoch; epoch < LOSSES.length; epoch++) {
      Path file = folder.resolve("model.bin");
      fit(epoch, file);
      endOfEpoch(epoch, file);
    }
    calls.retry(() -> calls.runs().finishRun(FinishRunRequest.newBuilder().setName(run).setAttempt(attempt).build()));
    Version best = calls.retry(() -> calls.artifacts().getBestVersion(
        GetBestVersionRequest.newBuilder().setParent(run).setIncludeFiles(true).build()));
    byte[] digest = transfer.download(best, folder.resolve("best.bin"));
    System.out.println("best " + best.getName() + " " + HexFormat.of().formatHex(digest));
  }

  private void endOfEpoch(int epoch, Path file) throws IOException {
    Event event = Event.newBuilder()
        .setKind(EventKind.EVENT_KIND_EPOCH_END).setEpoch(epoch).putMetrics("val_loss", LOSSES[epoch]).build();
    for (Decision decision : report(List.of(event))) {
      switch (decision.getAction()) {
        case ACTION_SAVE -> {
          transfer.upload(decision.getCheckpoint(), file);
          Version version = calls.retry(() -> calls.checkpoints().commitCheckpoint(CommitCheckpointRequest.newBuilder()
              .setCheckpoint(decision.getCheckpoint()).setAttempt(attempt).setFileCount(1).build()));
          System.out.println("epoch " + epoch + " saved as " + version.getName());
        }
        case ACTION_FAIL -> throw new IllegalStateException("epoch " + epoch + ": " + decision.getReasonText());
        default -> System.out.println("epoch " + epoch + " not saved: " + decision.getReasonText());
      }
    }
  }

  /** Sends events until all are taken, and answers what was decided. */
  private List<Decision> report(List<Event> events) {
    List<Decision> decisions = new ArrayList<>();
    for (int taken = 0; taken < events.size(); ) {
      ReportEventsRequest request = ReportEventsRequest.newBuilder()
          .setRun(run).setAttempt(attempt).setFirstSequence(nextSequence)
          .addAllEvents(events.subList(taken, events.size())).build();
      ReportEventsResponse answer = calls.retry(() -> calls.runs().reportEvents(request));
      decisions.addAll(answer.getDecisionsList());
      taken += (int) (answer.getNextSequence() - nextSequence);
      nextSequence = answer.getNextSequence();
    }
    return decisions;
  }

  /** Stands for the training of an epoch: it leaves 20 MiB of weights. */
  private static void fit(int epoch, Path file) throws IOException {
    byte[] weights = new byte[20 << 20];
    for (int at = 0; at < weights.length; at++) {
      weights[at] = (byte) ((at >> 20) ^ (epoch << 5) ^ at);
    }
    Files.write(file, weights);
  }
}
