// Raw load of the official API: SendMessage, ReceiveMessage with AckMessage, or QueryRoute calls, so many at a time, each
// over one connection. Prints one JSON line. What is sent and received is counted by its answers' status.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var (
	target  = flag.String("target", "", "host:port of the official API")
	topic   = flag.String("topic", "", "topic")
	group   = flag.String("group", "", "group, for receive")
	kind    = flag.String("kind", "send", "send, receive or route")
	tasks   = flag.Int("tasks", 16, "calls at a time")
	count   = flag.Int("count", 0, "messages in all; 0: as many as there is time for")
	seconds = flag.Float64("seconds", 5, "time")
	size    = flag.Int("size", 1024, "bytes of a body")
	batch   = flag.Int("batch", 32, "messages of a receive")
)

func die(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

func call(ctx context.Context, id int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	return metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", "load@"+strconv.Itoa(id), "x-mq-language", "GO",
		"x-mq-client-version", "5.1.4", "x-mq-protocol", "v2", "x-mq-request-id", "00000000-0000-0000-0000-000000000000",
		"x-mq-date-time", "20260101T000000Z"), cancel
}

func main() {
	flag.Parse()
	host, portText, err := net.SplitHostPort(*target)
	if err != nil {
		die(err)
	}
	port, _ := strconv.Atoi(portText)
	connection, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		die(err)
	}
	client := v2.NewMessagingServiceClient(connection)
	endpoints := &v2.Endpoints{Scheme: v2.AddressScheme_IPv4, Addresses: []*v2.Address{{Host: host, Port: int32(port)}}}
	resource := &v2.Resource{Name: *topic}
	settle := settings(client, endpoints)
	defer settle()
	ctx, cancel := call(context.Background(), 0)
	route, err := client.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: resource, Endpoints: endpoints})
	cancel()
	if err != nil {
		die(err)
	}
	if route.Status.Code != v2.Code_OK {
		die(fmt.Errorf("route: %v", route.Status))
	}
	queues := route.MessageQueues
	body := make([]byte, *size)
	var done, failed, left int64
	left = int64(*count)
	times := make([][]time.Duration, *tasks)
	stop := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	began := time.Now()
	var wait sync.WaitGroup
	for task := 0; task < *tasks; task++ {
		wait.Add(1)
		go func(task int) {
			defer wait.Done()
			for number := task; time.Now().Before(stop); number++ {
				if *count > 0 && *kind == "send" && atomic.AddInt64(&left, -1) < 0 {
					return
				}
				if *count > 0 && *kind == "receive" && atomic.LoadInt64(&done) >= int64(*count) {
					return
				}
				start := time.Now()
				got, err := one(client, endpoints, resource, queues[number%len(queues)], body, task, number)
				if err != nil {
					atomic.AddInt64(&failed, 1)
					fmt.Fprintln(os.Stderr, err)
					if atomic.LoadInt64(&failed) > 20 {
						die(fmt.Errorf("too many failures"))
					}
					continue
				}
				times[task] = append(times[task], time.Since(start))
				atomic.AddInt64(&done, int64(got))
			}
		}(task)
	}
	wait.Wait()
	took := time.Since(began).Seconds()
	var all []time.Duration
	for _, some := range times {
		all = append(all, some...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(part float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[min(len(all)-1, int(part*float64(len(all))))].Microseconds())
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"kind": *kind, "tasks": *tasks, "messages": done, "failed": failed,
		"seconds": took, "rate": float64(done) / took, "calls": len(all), "p50_us": at(0.5), "p99_us": at(0.99)})
}

// The server wants to know a client's settings before it says yes to some of its calls.
func settings(client v2.MessagingServiceClient, endpoints *v2.Endpoints) func() {
	ctx, cancel := call(context.Background(), 0)
	_ = cancel
	ctx = context.WithoutCancel(ctx)
	ctx, stop := context.WithCancel(ctx)
	stream, err := client.Telemetry(ctx)
	if err != nil {
		die(err)
	}
	value := &v2.Settings{AccessPoint: endpoints, UserAgent: &v2.UA{Language: v2.Language_GOLANG, Version: "5.1.4"}}
	if *kind == "receive" {
		value.ClientType = v2.ClientType_SIMPLE_CONSUMER.Enum()
		value.PubSub = &v2.Settings_Subscription{Subscription: &v2.Subscription{Group: &v2.Resource{Name: *group},
			Subscriptions: []*v2.SubscriptionEntry{{Topic: &v2.Resource{Name: *topic},
				Expression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"}}}}}
	} else {
		value.ClientType = v2.ClientType_PRODUCER.Enum()
		value.PubSub = &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: *topic}}}}
	}
	if err := stream.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: value}}); err != nil {
		die(err)
	}
	if _, err := stream.Recv(); err != nil {
		die(err)
	}
	return stop
}

func one(client v2.MessagingServiceClient, endpoints *v2.Endpoints, resource *v2.Resource, queue *v2.MessageQueue,
	body []byte, task int, number int) (int, error) {
	ctx, cancel := call(context.Background(), 0)
	defer cancel()
	switch *kind {
	case "route":
		answer, err := client.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: resource, Endpoints: endpoints})
		if err == nil && answer.Status.Code != v2.Code_OK {
			err = fmt.Errorf("%v", answer.Status)
		}
		return 1, err
	case "send":
		message := &v2.Message{Topic: resource, Body: body, SystemProperties: &v2.SystemProperties{
			MessageId: fmt.Sprintf("01%016X%016X", task, number), MessageType: v2.MessageType_NORMAL,
			BodyEncoding: v2.Encoding_IDENTITY, BornTimestamp: timestamppb.Now(), BornHost: "load", QueueId: queue.Id}}
		answer, err := client.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{message}})
		if err == nil && answer.Status.Code != v2.Code_OK {
			err = fmt.Errorf("%v", answer.Status)
		}
		return 1, err
	}
	stream, err := client.ReceiveMessage(ctx, &v2.ReceiveMessageRequest{Group: &v2.Resource{Name: *group},
		MessageQueue: queue, FilterExpression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"},
		BatchSize: int32(*batch), InvisibleDuration: durationpb.New(60 * time.Second),
		LongPollingTimeout: durationpb.New(5 * time.Second)})
	if err != nil {
		return 0, err
	}
	var found []*v2.AckMessageEntry
	for {
		item, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		if status := item.GetStatus(); status != nil && status.Code != v2.Code_OK && status.Code != v2.Code_MESSAGE_NOT_FOUND {
			return 0, fmt.Errorf("%v", status)
		}
		if message := item.GetMessage(); message != nil {
			found = append(found, &v2.AckMessageEntry{MessageId: message.SystemProperties.MessageId,
				ReceiptHandle: message.SystemProperties.GetReceiptHandle()})
		}
	}
	for _, entry := range found { // as the official clients do: one call a message
		answer, err := client.AckMessage(ctx, &v2.AckMessageRequest{Group: &v2.Resource{Name: *group}, Topic: resource,
			Entries: []*v2.AckMessageEntry{entry}})
		if err != nil {
			return 0, err
		}
		if answer.Status.Code != v2.Code_OK {
			return 0, fmt.Errorf("%v", answer.Status)
		}
	}
	return len(found), nil
}
