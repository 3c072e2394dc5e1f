package compat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

func same(t *testing.T, have, want []string) {
	t.Helper()
	check(t, slices.Equal(have, want), "%v, not %v", have, want)
}

func sorted(texts []string) []string { sort.Strings(texts); return texts }

func numbers(count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%04d", i)
	}
	return out
}

func TestNormalRoundTrip(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	before := time.Now()
	m := message(topic, "hällo", tag("TagA"), property("color", "red"), property("日本", "値"))
	m.SetKeys("k1", "k2")
	receipts, err := p.Send(context.Background(), m)
	must(t, err)
	view := c.drain(1)[0]
	check(t, view.body() == "hällo" && view.GetTopic() == topic && *view.GetTag() == "TagA", "%v", view)
	same(t, sorted(view.GetKeys()), []string{"k1", "k2"})
	properties := view.GetProperties()
	check(t, len(properties) == 2 && properties["color"] == "red" && properties["日本"] == "値", "%v", properties)
	check(t, view.GetMessageId() == receipts[0].MessageID, "id %s, not %s", view.GetMessageId(), receipts[0].MessageID)
	check(t, view.GetDeliveryAttempt() == 1, "attempt %d", view.GetDeliveryAttempt())
	born := view.GetBornTimestamp()
	check(t, born.After(before.Add(-2*time.Second)) && born.Before(time.Now().Add(time.Second)), "born %v", born)
	check(t, view.GetReceiptHandle() != "" && *view.GetBornHost() != "", "no handle or host")
	c.nothing(3*time.Second, long)
}

func TestBodies(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	want := [][]byte{{0}, bytes.Repeat([]byte{0xff}, 65_537), bytes.Repeat([]byte("0123456789abcdef"), 1<<18)}
	for _, body := range want {
		_, err := p.Send(context.Background(), &rmq.Message{Topic: topic, Body: body})
		must(t, err)
	}
	have := c.drain(len(want))
	sort.Slice(have, func(i, j int) bool { return len(have[i].GetBody()) < len(have[j].GetBody()) })
	for i, body := range want {
		check(t, bytes.Equal(have[i].GetBody(), body), "body of %d bytes came as %d others", len(body), len(have[i].GetBody()))
	}
	_, err := p.Send(context.Background(), &rmq.Message{Topic: topic, Body: make([]byte, 4<<20+1)})
	check(t, err != nil && strings.Contains(err.Error(), "size"), "a body over 4 MiB: %v", err)
}

func TestAsyncSend(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 8)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	want := numbers(200)
	var all sync.WaitGroup
	failed := make(chan error, len(want))
	for _, body := range want {
		all.Add(1)
		p.SendAsync(context.Background(), message(topic, body), func(_ context.Context, _ []*rmq.SendReceipt, err error) {
			defer all.Done()
			if err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	check(t, len(failed) == 0, "%d sends failed", len(failed))
	same(t, sorted(bodies(c.take(len(want), 2*soon, long, 32, true))), want)
	c.nothing(3*time.Second, long)
}

func TestTagFilter(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	some, all := newConsumer(t, newGroup(t), topic, rmq.NewFilterExpression("A || B")), newConsumer(t, newGroup(t), topic, rmq.SUB_ALL)
	p := newProducer(t, topic)
	for _, name := range []string{"A", "B", "C", "AB", "A"} {
		send(t, p, topic, name, tag(name))
	}
	send(t, p, topic, "none")
	same(t, sorted(bodies(some.drain(3))), []string{"A", "A", "B"})
	some.nothing(3*time.Second, long)
	all.drain(6)
}

func TestSQLFilter(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	expression := "(price BETWEEN 10 AND 200 AND region = 'eu') OR TAGS = 'always'"
	c := newConsumer(t, newGroup(t), topic, rmq.NewFilterExpressionWithType(expression, rmq.SQL92))
	p := newProducer(t, topic)
	for _, row := range [][2]string{{"5", "eu"}, {"11", "eu"}, {"11", "us"}, {"200", "eu"}, {"201", "eu"}} {
		send(t, p, topic, row[0]+row[1], property("price", row[0]), property("region", row[1]))
	}
	send(t, p, topic, "tagged", tag("always"))
	send(t, p, topic, "bare")
	same(t, sorted(bodies(c.drain(3))), []string{"11eu", "200eu", "tagged"})
	c.nothing(3*time.Second, long)
}

func TestAckIsFinal(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 1)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	for _, body := range numbers(5) {
		send(t, p, topic, body)
	}
	c.take(5, soon, minInvisible, 16, true)
	c.nothing(minInvisible+4*time.Second, minInvisible)
}

func TestRedeliveryCountsAttempts(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 1)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	sent := send(t, p, topic, "again", tag("T"), property("a", "b"))
	before := c.hold(soon, minInvisible)
	check(t, before.GetDeliveryAttempt() == 1, "attempt %d", before.GetDeliveryAttempt())
	for attempt := int32(2); attempt <= 3; attempt++ {
		m := c.hold(minInvisible+slack+5*time.Second, minInvisible)
		waited := m.at.Sub(before.at)
		check(t, waited >= minInvisible-500*time.Millisecond && waited <= minInvisible+slack, "redelivered after %v", waited)
		check(t, m.GetDeliveryAttempt() == attempt, "attempt %d, not %d", m.GetDeliveryAttempt(), attempt)
		check(t, m.GetMessageId() == sent.MessageID && m.GetTopic() == topic && m.body() == "again" &&
			*m.GetTag() == "T" && m.GetProperties()["a"] == "b", "changed: %v", m)
		before = m
	}
	c.ack(before)
	c.nothing(minInvisible+3*time.Second, minInvisible)
}

func TestChangeInvisibleDuration(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 1)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	send(t, p, topic, "sooner")
	m := c.hold(soon, 2*long)
	old, start := m.GetReceiptHandle(), time.Now()
	must(t, c.ChangeInvisibleDuration(m.MessageView, 2*time.Second))
	check(t, m.GetReceiptHandle() != "" && m.GetReceiptHandle() != old, "no new handle came")
	again := c.hold(2*time.Second+slack, minInvisible)
	check(t, again.at.Sub(start) >= 1500*time.Millisecond, "back after %v", again.at.Sub(start))
	check(t, again.GetDeliveryAttempt() == 2, "attempt %d", again.GetDeliveryAttempt())
	must(t, c.ChangeInvisibleDuration(again.MessageView, time.Hour))
	c.nothing(minInvisible+4*time.Second, minInvisible)
	c.ack(again)
}

func TestStaleReceiptHandleIsRefused(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 1)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	send(t, p, topic, "stale")
	first := c.hold(soon, minInvisible)
	second := c.hold(minInvisible+slack+5*time.Second, long)
	// The status of an ack is not shown by this client.
	err := c.ChangeInvisibleDuration(first.MessageView, minInvisible)
	check(t, codeOf(err) == v2.Code_INVALID_RECEIPT_HANDLE, "%v", err)
	c.ack(second)
}

func TestTwoGroupsEachGetEverything(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	one, two := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newConsumer(t, newGroup(t), topic, rmq.SUB_ALL)
	p := newProducer(t, topic)
	for _, body := range numbers(10) {
		send(t, p, topic, body)
	}
	same(t, sorted(bodies(one.drain(10))), numbers(10))
	same(t, sorted(bodies(two.drain(10))), numbers(10))
}

func TestLongPollIsWoken(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	send(t, p, topic, "warm")
	c.drain(1)
	var took []time.Duration
	for range 7 {
		sentAt := make(chan time.Time, 1)
		go func() {
			time.Sleep(700 * time.Millisecond) // the poll is parked by then
			sentAt <- time.Now()
			_, _ = p.Send(context.Background(), message(topic, "x"))
		}()
		m := c.drain(1)[0]
		took = append(took, m.at.Sub(<-sentAt))
	}
	slices.Sort(took)
	check(t, took[3] < latency, "send and wake-up took %v", took)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	normal, fifo := newTopic(t, "NORMAL", 1), newTopic(t, "FIFO", 1)
	p := newProducer(t, normal)
	_, err := p.Send(context.Background(), message("no-such-"+run, "x"))
	check(t, err != nil, "a send to an unknown topic went")
	lost, err := rmq.NewProducer(config(""), rmq.WithTopics("no-such-"+run))
	must(t, err)
	check(t, lost.Start() != nil, "a producer of an unknown topic started")
	for what, m := range map[string]*rmq.Message{
		"fifo to normal":  message(normal, "x", messageGroup("g")),
		"delay to normal": message(normal, "x", deliverAt(time.Now().Add(time.Minute))),
		"normal to fifo":  message(fifo, "x"),
	} {
		_, err := p.Send(context.Background(), m)
		check(t, err != nil && strings.Contains(err.Error(), "type"), "%s: %v", what, err)
	}
	// What only the server checks.
	_, err = p.Send(context.Background(), message(normal, "x", property("TAGS", "reserved")))
	check(t, codeOf(err) == v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "a reserved property: %v", err)
	_, err = p.Send(context.Background(), message(normal, ""))
	check(t, codeOf(err) == v2.Code_MESSAGE_BODY_EMPTY, "an empty body: %v", err)
}

// TestWithoutTLS runs some of the others in a process of their own: the client's switch is global.
func TestWithoutTLS(t *testing.T) {
	t.Parallel()
	if os.Getenv("rocketmq.client.enableSsl") == "false" {
		t.Skip("none of them uses TLS")
	}
	some := "^(TestNormalRoundTrip|TestTransactionCommit|TestPushConsumer|TestFifoPush)$"
	command := exec.Command(os.Args[0], "-test.run="+some, "-test.v", "-test.parallel=4")
	command.Env = append(os.Environ(), "rocketmq.client.enableSsl=false")
	out, err := command.CombinedOutput()
	check(t, err == nil && strings.Count(string(out), "--- PASS: ") == 4, "%v\n%s", err, out)
}
