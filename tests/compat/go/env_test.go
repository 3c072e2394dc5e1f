// Package compat holds what an apache.rocketmq.v2 server must do, seen through the official Go client (TLS unless
// rocketmq.client.enableSsl=false). It needs ENDPOINT, ADMIN_CREATE_TOPIC, ADMIN_CREATE_GROUP; see docs/compatibility.md.
package compat

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

var (
	minInvisible = knob("MIN_INVISIBLE_S", 10)    // lowest invisible duration the server takes
	slack        = knob("REDELIVERY_SLACK_S", 12) // how late after it a redelivery may come
	txnCheck     = knob("TXN_CHECK_S", 15)        // an undecided transaction is checked back within this
	latency      = knob("LATENCY_MS", 500) / 1000 // a parked long poll is woken within this, median
	run          = randomHex(4)
	names        atomic.Int64
)

const (
	long = 60 * time.Second // an invisible time that no test outlasts
	soon = 30 * time.Second // what happens at all happens by then
)

func TestMain(m *testing.M) {
	for _, name := range []string{"ENDPOINT", "ADMIN_CREATE_TOPIC", "ADMIN_CREATE_GROUP"} {
		if os.Getenv(name) == "" {
			fmt.Println("set", name)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

func knob(name string, otherwise float64) time.Duration {
	seconds, err := strconv.ParseFloat(os.Getenv(name), 64)
	if err != nil {
		seconds = otherwise
	}
	return time.Duration(seconds * float64(time.Second))
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return hex.EncodeToString(b)
}

func hook(t *testing.T, variable string, arguments ...string) {
	t.Helper()
	words := append(strings.Fields(os.Getenv(variable)), arguments...)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", words, err, out)
	}
}

func newTopic(t *testing.T, kind string, queues int) string {
	t.Helper()
	name := fmt.Sprintf("go-t%d-%s", names.Add(1), run)
	hook(t, "ADMIN_CREATE_TOPIC", name, kind, strconv.Itoa(queues))
	return name
}

func newGroup(t *testing.T) string { t.Helper(); return newGroupOf(t, false, 17) }

func newGroupOf(t *testing.T, fifo bool, maxAttempts int) string {
	t.Helper()
	name := fmt.Sprintf("go-g%d-%s", names.Add(1), run)
	hook(t, "ADMIN_CREATE_GROUP", name, strconv.FormatBool(fifo), strconv.Itoa(maxAttempts))
	return name
}

func config(group string) *rmq.Config {
	return &rmq.Config{Endpoint: os.Getenv("ENDPOINT"), ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, holds bool, format string, arguments ...any) {
	t.Helper()
	if !holds {
		t.Fatalf(format, arguments...)
	}
}

// ---- producers

func newProducer(t *testing.T, topic string, options ...rmq.ProducerOption) rmq.Producer {
	t.Helper()
	p, err := rmq.NewProducer(config(""), append(options, rmq.WithTopics(topic))...)
	must(t, err)
	must(t, p.Start())
	t.Cleanup(func() { _ = p.GracefulStop() })
	return p
}

type change func(*rmq.Message)

func tag(tag string) change             { return func(m *rmq.Message) { m.SetTag(tag) } }
func messageGroup(name string) change   { return func(m *rmq.Message) { m.SetMessageGroup(name) } }
func deliverAt(at time.Time) change     { return func(m *rmq.Message) { m.SetDelayTimestamp(at) } }
func priority(level int32) change       { return func(m *rmq.Message) { _ = m.SetPriority(level) } }
func lite(name string) change           { return func(m *rmq.Message) { m.SetLiteTopic(name) } }
func property(key, value string) change { return func(m *rmq.Message) { m.AddProperty(key, value) } }

func message(topic, body string, changes ...change) *rmq.Message {
	m := &rmq.Message{Topic: topic, Body: []byte(body)}
	for _, c := range changes {
		c(m)
	}
	return m
}

func send(t *testing.T, p rmq.Producer, topic, body string, changes ...change) *rmq.SendReceipt {
	t.Helper()
	receipts, err := p.Send(context.Background(), message(topic, body, changes...))
	must(t, err)
	check(t, len(receipts) == 1 && receipts[0].MessageID != "", "receipts: %v", receipts)
	return receipts[0]
}

// ---- simple consumers

type got struct {
	*rmq.MessageView
	at time.Time
}

func (g got) body() string { return string(g.GetBody()) }

func bodies(messages []got) []string {
	out := make([]string, 0, len(messages))
	for _, m := range messages {
		out = append(out, m.body())
	}
	return out
}

type simple struct {
	rmq.SimpleConsumer
	t *testing.T
}

func newConsumer(t *testing.T, group, topic string, filter *rmq.FilterExpression) *simple {
	t.Helper()
	c, err := startConsumer(t, group, topic, filter)
	must(t, err)
	return c
}

func startConsumer(t *testing.T, group, topic string, filter *rmq.FilterExpression) (*simple, error) {
	t.Helper()
	c, err := rmq.NewSimpleConsumer(config(group),
		rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}))
	must(t, err)
	if err := c.Start(); err != nil {
		return nil, err // it has stopped itself
	}
	t.Cleanup(func() { _ = c.GracefulStop() })
	return &simple{c, t}, nil
}

// once asks one time; that there is no message is an error to this client, and none to us.
func (c *simple) once(batch int32, invisible time.Duration) []got {
	c.t.Helper()
	views, err := c.Receive(context.Background(), batch, invisible)
	if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND) {
		return nil
	}
	must(c.t, err)
	out := make([]got, 0, len(views))
	for _, view := range views {
		out = append(out, got{view, time.Now()})
	}
	return out
}

func (c *simple) ack(m got) { c.t.Helper(); must(c.t, c.Ack(context.Background(), m.MessageView)) }

// take receives until so many came; fewer is a failure.
func (c *simple) take(want int, within, invisible time.Duration, batch int32, ack bool) []got {
	c.t.Helper()
	var all []got
	for end := time.Now().Add(within); len(all) < want && time.Now().Before(end); {
		for _, m := range c.once(batch, invisible) {
			all = append(all, m)
			if ack {
				c.ack(m)
			}
		}
	}
	check(c.t, len(all) >= want, "%d messages came within %v, not %d: %v", len(all), within, want, bodies(all))
	return all
}

func (c *simple) drain(want int) []got { c.t.Helper(); return c.take(want, soon, long, 32, true) }

func (c *simple) hold(within, invisible time.Duration) got {
	c.t.Helper()
	return c.take(1, within, invisible, 1, false)[0]
}

func (c *simple) nothing(during, invisible time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); {
		if all := c.once(16, invisible); len(all) != 0 {
			c.t.Fatalf("unexpected: %v (attempt %d)", bodies(all), all[0].GetDeliveryAttempt())
		}
	}
}

// ---- push consumers

// box collects what a listener sees.
type box struct {
	mutex    sync.Mutex
	messages []got
}

func (b *box) add(view *rmq.MessageView) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.messages = append(b.messages, got{view, time.Now()})
}

func (b *box) all() []got {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return append([]got(nil), b.messages...)
}

func (b *box) wait(t *testing.T, want int, within time.Duration) []got {
	t.Helper()
	until(t, within, func() bool { return len(b.all()) >= want }, func() string {
		return fmt.Sprintf("%d messages: %v", want, bodies(b.all()))
	})
	return b.all()
}

func until(t *testing.T, within time.Duration, condition func() bool, what func() string) {
	t.Helper()
	for end := time.Now().Add(within); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what())
		}
	}
}

func newPush(t *testing.T, group, topic string, consume func(*rmq.MessageView) rmq.ConsumerResult) rmq.PushConsumer {
	t.Helper()
	return newPushOf(t, group, topic, rmq.SUB_ALL, consume)
}

func newPushOf(t *testing.T, group, topic string, filter *rmq.FilterExpression,
	consume func(*rmq.MessageView) rmq.ConsumerResult) rmq.PushConsumer {
	t.Helper()
	c, err := rmq.NewPushConsumer(config(group),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: consume}))
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() { stopped(t, c.GracefulStop) })
	return c
}

// stopped gives a push consumer's stop, which waits for its long polls, a bound.
func stopped(t *testing.T, stop func() error) {
	done := make(chan struct{})
	go func() { _ = stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Log("the consumer is left to stop by itself")
	}
}

func codeOf(err error) v2.Code {
	var status *rmq.ErrRpcStatus
	if errors.As(err, &status) {
		return v2.Code(status.GetCode())
	}
	return v2.Code_CODE_UNSPECIFIED
}
