// Command backend is a model backend in Go: an example of what stands behind a provider with the dialect `plugin`.
//
//	go run ./backend [-listen host:port] [-delay 10ms]
//
// It serves one model, `shout`, that says the last message of the user again in capitals, word by word.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plugin "dragoman/go/gen/dragoman/plugin/v1"
	dragoman "dragoman/go/gen/dragoman/v1"
)

const model = "shout"

type backend struct {
	plugin.UnimplementedModelBackendServer
	delay time.Duration
}

func main() {
	listen := flag.String("listen", "127.0.0.1:50052", "where to listen")
	delay := flag.Duration("delay", 10*time.Millisecond, "pause between two words")
	flag.Parse()
	if err := serve(*listen, *delay); err != nil {
		log.Fatal(err)
	}
}

func serve(address string, delay time.Duration) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	plugin.RegisterModelBackendServer(server, &backend{delay: delay})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	fmt.Println("listening on", listener.Addr())
	return server.Serve(listener)
}

// Describe tells what the backend serves.
func (b *backend) Describe(context.Context, *plugin.DescribeRequest) (*plugin.DescribeResponse, error) {
	return &plugin.DescribeResponse{
		Name:    "shout",
		Version: "1",
		Models: []*dragoman.Model{{
			Id:               model,
			Owner:            "example",
			ContextLength:    4096,
			InputModalities:  []dragoman.Modality{dragoman.Modality_MODALITY_TEXT},
			OutputModalities: []dragoman.Modality{dragoman.Modality_MODALITY_TEXT},
			Capabilities:     &dragoman.ModelCapabilities{Chat: true},
		}},
	}, nil
}

// Generate answers. The context ends when the call is cancelled, and with it the generation.
func (b *backend) Generate(request *plugin.GenerateRequest, stream grpc.ServerStreamingServer[plugin.GenerateResponse]) error {
	if request.GetSpec().GetModel() != model {
		return status.Errorf(codes.NotFound, "there is no model %q", request.GetSpec().GetModel())
	}
	prompt := lastUserText(request.GetSpec())
	if prompt == "" {
		return stream.Send(&plugin.GenerateResponse{Failure: &dragoman.Failure{
			Reason:  "INVALID_REQUEST",
			Message: "the conversation has no text of a user to shout",
			Field:   "messages",
		}})
	}
	words := strings.SplitAfter(strings.ToUpper(prompt), " ")
	limit, reason := len(words), dragoman.FinishReason_FINISH_REASON_STOP
	if most := request.GetSpec().GetSampling().GetMaxOutputTokens(); most > 0 && int(most) < limit {
		limit, reason = int(most), dragoman.FinishReason_FINISH_REASON_LENGTH
	}
	for _, word := range words[:limit] {
		select {
		case <-stream.Context().Done():
			log.Printf("%s: cancelled", request.GetRunId())
			return stream.Context().Err()
		case <-time.After(b.delay):
		}
		delta := &dragoman.TextDelta{ChoiceIndex: request.GetChoiceIndex(), Text: word}
		if err := stream.Send(events(&dragoman.RunEvent{Kind: &dragoman.RunEvent_TextDelta{TextDelta: delta}})); err != nil {
			return err
		}
	}
	finished := &dragoman.ChoiceFinished{ChoiceIndex: request.GetChoiceIndex(), FinishReason: reason}
	used := &dragoman.UsageReported{LastCall: &dragoman.Usage{InputTokens: int64(len(words)), OutputTokens: int64(limit)}}
	return stream.Send(events(
		&dragoman.RunEvent{Kind: &dragoman.RunEvent_ChoiceFinished{ChoiceFinished: finished}},
		&dragoman.RunEvent{Kind: &dragoman.RunEvent_UsageReported{UsageReported: used}},
	))
}

func events(list ...*dragoman.RunEvent) *plugin.GenerateResponse {
	return &plugin.GenerateResponse{Events: list}
}

func lastUserText(spec *dragoman.ChatSpec) string {
	for i := len(spec.GetMessages()) - 1; i >= 0; i-- {
		message := spec.GetMessages()[i]
		if message.GetRole() != dragoman.Role_ROLE_USER {
			continue
		}
		var text strings.Builder
		for _, part := range message.GetParts() {
			text.WriteString(part.GetText().GetText())
		}
		return text.String()
	}
	return ""
}
