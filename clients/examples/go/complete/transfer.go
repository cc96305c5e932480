package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	pb "github.com/keepbest/keepbest/gen/go/keepbest/v1"
)

// Bytes of a file in one message. The whole message has at most 4 MiB.
const pieceBytes = 1 << 20

func digestOf(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	digest := sha256.New()
	_, err = io.Copy(digest, file)
	return digest.Sum(nil), err
}

// upload writes a file of the checkpoint. Where it broke off, it asks how many bytes are durable and sends the rest.
func (t *trainer) upload(ctx context.Context, checkpoint, path string) error {
	digest, err := digestOf(path)
	if err != nil {
		return err
	}
	about, err := os.Stat(path)
	if err != nil {
		return err
	}
	prepare := &pb.PrepareFileRequest{
		Checkpoint: checkpoint, Attempt: t.attempt, Path: filepath.Base(path), SizeBytes: about.Size(), Sha256: digest,
	}
	return retry(func() error {
		file, err := unary(ctx, t.checkpoints.PrepareFile, prepare)
		if err != nil || file.State == pb.FileState_FILE_STATE_COMPLETE {
			return err
		}
		return t.write(ctx, prepare, path, file.DurableBytes)
	})
}

// write sends a file's bytes from an offset on, in one stream without a deadline.
func (t *trainer) write(ctx context.Context, prepare *pb.PrepareFileRequest, path string, offset int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	// Ends the stream if this function is left before the server has answered.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := t.checkpoints.WriteFile(ctx)
	if err != nil {
		return err
	}
	message := &pb.WriteFileRequest{
		Checkpoint: prepare.Checkpoint, Attempt: prepare.Attempt, Path: prepare.Path, OffsetBytes: offset,
	}
	piece := make([]byte, pieceBytes)
	for !message.Finish {
		count, err := io.ReadFull(file, piece)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		offset += int64(count)
		message.Data, message.Finish = piece[:count], offset >= prepare.SizeBytes
		if stream.Send(message) != nil {
			break // It has ended: CloseAndRecv says why.
		}
		message = &pb.WriteFileRequest{Finish: message.Finish}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// downloadBest writes the best version's file to path and compares its digest with the one that the trainer declared.
func (t *trainer) downloadBest(ctx context.Context, path string) (*pb.Version, []byte, error) {
	version, err := unary(ctx, t.artifacts.GetBestVersion, &pb.GetBestVersionRequest{Parent: t.run, IncludeFiles: true})
	if err != nil {
		return nil, nil, err
	}
	target, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	defer target.Close()
	file, offset := version.Files[0], int64(0)
	err = retry(func() error {
		if offset == file.SizeBytes {
			return nil
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// An alias may move in between: the version's own name stands for these bytes only.
		request := &pb.ReadFileRequest{Version: version.Name, Path: file.Path, OffsetBytes: offset}
		stream, err := t.artifacts.ReadFile(ctx, request)
		if err != nil {
			return err
		}
		for {
			answer, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := target.WriteAt(answer.Data, answer.OffsetBytes); err != nil {
				return err
			}
			offset = answer.OffsetBytes + int64(len(answer.Data))
		}
	})
	if err != nil {
		return nil, nil, err
	}
	digest, err := digestOf(path)
	if err == nil && !bytes.Equal(digest, file.Sha256) {
		err = fmt.Errorf("%s has SHA-256 %x, but %x was saved", path, digest, file.Sha256)
	}
	return version, digest, err
}
