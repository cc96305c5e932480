// A training that loses nothing when the server or it itself is killed: complete ADDRESS RUN FOLDER.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"crypto/rand"

	pb "github.com/keepbest/keepbest/gen/go/keepbest/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const project = "teams/demo/projects/languages"

// What the epochs of this training come to.
var losses = []float64{0.9, 0.7, 0.8, 0.5, 0.3}

type trainer struct {
	runs         pb.RunsClient
	checkpoints  pb.CheckpointsClient
	artifacts    pb.ArtifactsClient
	run          string
	attempt      int64
	nextSequence int64
}

func main() {
	log.SetFlags(0)
	if err := train(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(describe(err))
	}
}

// connect sets what a training needs of its channel.
func connect(address string) (*grpc.ClientConn, error) {
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 5 * time.Second // Its own is two minutes: long after the server is back.
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		// A server that is gone without a word is found, instead of waited for.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		// While there is no connection calls wait for one, as long as their deadline allows.
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

func train(ctx context.Context, address, run, folder string) error {
	channel, err := connect(address)
	if err != nil {
		return err
	}
	defer channel.Close()
	t := &trainer{
		runs:        pb.NewRunsClient(channel),
		checkpoints: pb.NewCheckpointsClient(channel),
		artifacts:   pb.NewArtifactsClient(channel),
	}
	first, err := t.start(ctx, run)
	if err != nil {
		return err
	}
	for epoch := first; epoch < int64(len(losses)); epoch++ {
		file := filepath.Join(folder, "model.bin")
		if err := fit(epoch, file); err != nil {
			return err
		}
		if err := t.endOfEpoch(ctx, epoch, file); err != nil {
			return err
		}
	}
	if _, err := unary(ctx, t.runs.FinishRun, &pb.FinishRunRequest{Name: t.run, Attempt: t.attempt}); err != nil {
		return err
	}
	best := filepath.Join(folder, "best.bin")
	version, digest, err := t.downloadBest(ctx, best)
	if err != nil {
		return err
	}
	fmt.Printf("best %s %x\n", version.Name, digest)
	return nil
}

// start begins the run or goes on with it, and answers the epoch to train first: the one behind the newest version, whose
// weights a real training would load now.
func (t *trainer) start(ctx context.Context, run string) (int64, error) {
	// New in each start of the process, and the same when the call is repeated.
	started, err := unary(ctx, t.runs.StartRun, &pb.StartRunRequest{
		Parent: project, RunId: run, RequestId: rand.Text(),
		Strategy: &pb.Strategy{Filepath: "model-{epoch:02d}.bin", SaveBestOnly: true},
	})
	if err != nil {
		return 0, err
	}
	t.run, t.attempt, t.nextSequence = started.Run.Name, started.Attempt, started.NextSequence
	if started.ResumeFrom == nil {
		return 0, nil
	}
	fmt.Printf("resume from %s\n", started.ResumeFrom.Name)
	return started.ResumeFrom.Epoch + 1, nil
}

// report sends events until all are taken, and answers what was decided.
func (t *trainer) report(ctx context.Context, events ...*pb.Event) ([]*pb.Decision, error) {
	var decisions []*pb.Decision
	for len(events) > 0 {
		answer, err := unary(ctx, t.runs.ReportEvents, &pb.ReportEventsRequest{
			Run: t.run, Attempt: t.attempt, FirstSequence: t.nextSequence, Events: events,
		})
		if err != nil {
			return nil, err
		}
		decisions = append(decisions, answer.Decisions...)
		events = events[answer.NextSequence-t.nextSequence:]
		t.nextSequence = answer.NextSequence
	}
	return decisions, nil
}

func (t *trainer) endOfEpoch(ctx context.Context, epoch int64, file string) error {
	decisions, err := t.report(ctx, &pb.Event{
		Kind: pb.EventKind_EVENT_KIND_EPOCH_END, Epoch: epoch, Metrics: map[string]float64{"val_loss": losses[epoch]},
	})
	if err != nil {
		return err
	}
	for _, decision := range decisions {
		switch decision.Action {
		case pb.Action_ACTION_SAVE:
			if err := t.upload(ctx, decision.Checkpoint, file); err != nil {
				return err
			}
			version, err := unary(ctx, t.checkpoints.CommitCheckpoint, &pb.CommitCheckpointRequest{
				Checkpoint: decision.Checkpoint, Attempt: t.attempt, FileCount: 1,
			})
			if err != nil {
				return err
			}
			fmt.Printf("epoch %d saved as %s\n", epoch, version.Name)
		case pb.Action_ACTION_FAIL:
			return fmt.Errorf("epoch %d: %s", epoch, decision.ReasonText)
		default:
			fmt.Printf("epoch %d not saved: %s\n", epoch, decision.ReasonText)
		}
	}
	return nil
}

// fit stands for the training of an epoch: it leaves 20 MiB of weights.
func fit(epoch int64, file string) error {
	weights := make([]byte, 20<<20)
	for at := range weights {
		weights[at] = byte(at>>20) ^ byte(epoch<<5) ^ byte(at)
	}
	return os.WriteFile(file, weights, 0o600)
}
