package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// deadline of a call that is one question and one answer.
	deadline = 30 * time.Second
	// patience is how long a call is repeated before the training gives up.
	patience = 5 * time.Minute
	// longestPause between two tries.
	longestPause = 5 * time.Second
)

// retry repeats a call until it works, fails for good, or took longer than patience: every call of the API may be repeated.
func retry(call func() error) error {
	pause := 100 * time.Millisecond
	for end := time.Now().Add(patience); ; pause = min(2*pause, longestPause) {
		err := call()
		if err == nil || !mayPass(err) || time.Now().After(end) {
			return err
		}
		wait := pause/2 + rand.N(pause/2)
		if _, told := detailsOf(err); told != nil {
			wait = max(wait, told.RetryDelay.AsDuration())
		}
		time.Sleep(wait)
	}
}

// unary makes a call with a deadline, and repeats it.
func unary[Q, A any](ctx context.Context, call func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	var answer A
	err := retry(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		answer, err = call(ctx, request)
		return err
	})
	return answer, err
}

func detailsOf(err error) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.RetryInfo:
			retry = detail
		}
	}
	return info, retry
}

// mayPass: an error of a call without ErrorInfo is the transport's; the server says with its code or RetryInfo whether
// trying again may help.
func mayPass(err error) bool {
	if _, ofCall := status.FromError(err); !ofCall {
		return false
	}
	info, retry := detailsOf(err)
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded:
		return true
	}
	return info == nil || retry != nil
}

// describe says what the server refused, its reason first.
func describe(err error) string {
	if info, _ := detailsOf(err); info != nil {
		return fmt.Sprintf("%s: %s %v", info.Reason, status.Convert(err).Message(), info.Metadata)
	}
	return err.Error()
}
