// Command chat streams one answer over gRPC: an example of the contract's Go stubs.
//
//	DRAGOMAN_API_KEY=… go run ./chat [-target host:port] [-model id] [-cancel-after n] prompt
//
// The answer goes to standard output, how the run ended to standard error. The exit status is 0 only if it completed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	dragoman "dragoman/go/gen/dragoman/v1"
)

var errNotCompleted = errors.New("the run did not complete")

func main() {
	target := flag.String("target", "127.0.0.1:50051", "where the server listens")
	model := flag.String("model", "", "id or alias of the model; empty means the server's default")
	cancelAfter := flag.Int("cancel-after", 0, "cancel the run after so many pieces of text; 0 means never")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := chat(*target, *model, flag.Arg(0), *cancelAfter); err != nil {
		explain(err)
		os.Exit(1)
	}
}

func chat(target, model, prompt string, cancelAfter int) error {
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	runs := dragoman.NewRunServiceClient(connection)
	ctx := metadata.AppendToOutgoingContext(context.Background(),
		"authorization", "Bearer "+os.Getenv("DRAGOMAN_API_KEY"))

	stream, err := runs.StreamRun(ctx, &dragoman.StreamRunRequest{Spec: chatSpec(model, prompt)})
	if err != nil {
		return err
	}
	pieces := 0
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the stream ended before the run did")
		}
		if err != nil {
			return err
		}
		for _, event := range batch.GetEvents() {
			if delta := event.GetTextDelta(); delta != nil {
				fmt.Print(delta.GetText())
				pieces++
			}
			if ended, err := end(batch.GetRunId(), event); ended {
				return err
			}
		}
		if cancelAfter > 0 && pieces >= cancelAfter {
			cancelAfter = 0
			if _, err := runs.CancelRun(ctx, &dragoman.CancelRunRequest{RunId: batch.GetRunId()}); err != nil {
				return err
			}
		}
	}
}

func chatSpec(model, prompt string) *dragoman.RunSpec {
	text := &dragoman.Part{Kind: &dragoman.Part_Text{Text: &dragoman.TextPart{Text: prompt}}}
	message := &dragoman.Message{Role: dragoman.Role_ROLE_USER, Parts: []*dragoman.Part{text}}
	chat := &dragoman.ChatSpec{Model: model, Messages: []*dragoman.Message{message}}
	return &dragoman.RunSpec{Work: &dragoman.RunSpec_Chat{Chat: chat}}
}

// end reports how the run ended, if this event ends it.
func end(runID string, event *dragoman.RunEvent) (bool, error) {
	switch kind := event.GetKind().(type) {
	case *dragoman.RunEvent_RunCompleted:
		fmt.Fprintf(os.Stderr, "\n%s completed\n", runID)
		return true, nil
	case *dragoman.RunEvent_RunFailed:
		failure := kind.RunFailed.GetFailure()
		fmt.Fprintf(os.Stderr, "\n%s failed: %s: %s\n", runID, failure.GetReason(), failure.GetMessage())
		return true, errNotCompleted
	case *dragoman.RunEvent_RunCancelled:
		fmt.Fprintf(os.Stderr, "\n%s cancelled: %s\n", runID, kind.RunCancelled.GetReason())
		return true, errNotCompleted
	}
	return false, nil
}

// explain prints what a failed call says of itself: programs decide by the reason, never by the message.
func explain(err error) {
	failed, isStatus := status.FromError(err)
	if !isStatus {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", failed.Code(), failed.Message())
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintf(os.Stderr, "reason: %s\n", detail.GetReason())
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				fmt.Fprintf(os.Stderr, "field: %s\n", violation.GetField())
			}
		case *errdetails.RetryInfo:
			fmt.Fprintf(os.Stderr, "retry after: %s\n", detail.GetRetryDelay().AsDuration())
		}
	}
}
