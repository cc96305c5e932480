// One save with nothing but the stubs: plain ADDRESS FILE.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	pb "github.com/keepbest/keepbest/gen/go/keepbest/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	ctx, data, path := context.Background(), must(os.ReadFile(os.Args[2])), filepath.Base(os.Args[2])
	channel := must(grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials())))
	runs, checkpoints := pb.NewRunsClient(channel), pb.NewCheckpointsClient(channel)

	strategy := &pb.Strategy{Filepath: "model-{epoch:02d}.bin", SaveBestOnly: true}
	started := must(runs.StartRun(ctx, &pb.StartRunRequest{Parent: "teams/demo/projects/go", Strategy: strategy}))
	run, attempt := started.Run.Name, started.Attempt
	event := &pb.Event{Kind: pb.EventKind_EVENT_KIND_EPOCH_END, Epoch: 0, Metrics: map[string]float64{"val_loss": 0.25}}
	answer := must(runs.ReportEvents(ctx, &pb.ReportEventsRequest{
		Run: run, Attempt: attempt, FirstSequence: started.NextSequence, Events: []*pb.Event{event}}))
	if decision := answer.Decisions[0]; decision.Action == pb.Action_ACTION_SAVE {
		name, size := decision.Checkpoint, int64(len(data))
		must(checkpoints.PrepareFile(ctx, &pb.PrepareFileRequest{Checkpoint: name, Attempt: attempt, Path: path, SizeBytes: size}))
		stream := must(checkpoints.WriteFile(ctx))
		message := &pb.WriteFileRequest{Checkpoint: name, Attempt: attempt, Path: path}
		for !message.Finish {
			piece := min(1<<20, len(data))
			message.Data, data, message.Finish = data[:piece], data[piece:], piece == len(data)
			if stream.Send(message) != nil {
				break // CloseAndRecv says why.
			}
			message = &pb.WriteFileRequest{Finish: message.Finish}
		}
		must(stream.CloseAndRecv())
		fmt.Println(must(checkpoints.CommitCheckpoint(ctx, &pb.CommitCheckpointRequest{Checkpoint: name, Attempt: attempt})).Name)
	}
}
