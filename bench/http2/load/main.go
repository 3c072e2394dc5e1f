// Unary gRPC calls from one connection, as many at a time as told, for so many seconds; prints calls a second and latencies.
//
// Bytes go as they are (an own codec), so that neither side pays for protobuf. With -metadata each call carries what a
// RocketMQ 5 client sends (a request id of its own, the date, a signature of the date) and a deadline.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

type rawCodec struct{}

func (rawCodec) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "proto" }

func rocketmq(ctx context.Context) context.Context {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		panic(err)
	}
	date := time.Now().UTC().Format("20060102T150405Z")
	signature := sha1.Sum([]byte(date)) // clients sign the date alone, so it changes once a second
	return metadata.AppendToOutgoingContext(ctx,
		"x-mq-protocol", "v2",
		"x-mq-language", "GO",
		"x-mq-client-version", "5.1.2",
		"x-mq-client-id", "bench-host@4711@0@1a2b3c4d",
		"x-mq-namespace", "",
		"x-mq-date-time", date,
		"x-mq-request-id", hex.EncodeToString(random),
		"authorization", "MQv2-HMAC-SHA1 Credential=accessKey, SignedHeaders=x-mq-date-time, Signature="+hex.EncodeToString(signature[:]),
	)
}

func main() {
	address := flag.String("address", "127.0.0.1:7800", "")
	method := flag.String("method", "/bench/echo", "")
	secure := flag.Bool("tls", false, "")
	withMetadata := flag.Bool("metadata", false, "")
	atATime := flag.Int("calls", 64, "at a time")
	size := flag.Int("bytes", 0, "of a message")
	seconds := flag.Float64("seconds", 5, "")
	flag.Parse()

	transport := insecure.NewCredentials()
	if *secure {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		panic(err)
	}
	defer connection.Close()

	message := make([]byte, *size)
	took := make([][]time.Duration, *atATime)
	var workers sync.WaitGroup
	began := time.Now()
	until := began.Add(time.Duration(*seconds * float64(time.Second)))
	for number := range *atATime {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for time.Now().Before(until) {
				ctx, cancel := context.Background(), func() {}
				if *withMetadata {
					ctx, cancel = context.WithTimeout(rocketmq(ctx), 3*time.Second)
				}
				start := time.Now()
				var answer []byte
				if err := connection.Invoke(ctx, *method, &message, &answer); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				cancel()
				took[number] = append(took[number], time.Since(start))
			}
		}()
	}
	workers.Wait()
	elapsed := time.Since(began).Seconds()
	var all []time.Duration
	for _, some := range took {
		all = append(all, some...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(share float64) float64 {
		return float64(all[min(len(all)-1, int(share*float64(len(all))))].Microseconds()) / 1000
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"calls": len(all), "per_s": float64(len(all)) / elapsed, "p50_ms": at(0.5), "p99_ms": at(0.99),
	})
}
