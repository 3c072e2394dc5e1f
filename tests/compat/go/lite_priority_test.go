package compat

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// What RocketMQ 5.3 does not serve, and the client offers.

func needsLiteAndPriority(t *testing.T) {
	t.Helper()
	if os.Getenv("LITE_AND_PRIORITY") != "true" {
		t.Skip("LITE_AND_PRIORITY=true is for servers that have them")
	}
}

func TestHigherPriorityFirst(t *testing.T) {
	t.Parallel()
	needsLiteAndPriority(t)
	if knob("BROKERS", 1) != time.Second {
		t.Skip("each broker has an order of its own")
	}
	topic := newTopic(t, "PRIORITY", 4)
	p := newProducer(t, topic)
	for _, level := range []int32{1, 0, 3, 2} {
		for i := range 5 {
			send(t, p, topic, fmt.Sprintf("%d:%d", level, i), priority(level))
		}
	}
	var wanted []string
	for level := 3; level >= 0; level-- {
		for i := range 5 {
			wanted = append(wanted, fmt.Sprintf("%d:%d", level, i))
		}
	}
	same(t, bodies(newConsumer(t, newGroup(t), topic, rmq.SUB_ALL).take(20, soon, long, 4, true)), wanted)
}

func TestPriorityNeedsItsTopic(t *testing.T) {
	t.Parallel()
	needsLiteAndPriority(t)
	topic := newTopic(t, "NORMAL", 1)
	_, err := newProducer(t, topic).Send(context.Background(), message(topic, "x", priority(1)))
	check(t, err != nil, "a message with a priority went to a normal topic")
}

func newLitePush(t *testing.T, group, topic string, consume func(*rmq.MessageView) rmq.ConsumerResult) rmq.LitePushConsumer {
	t.Helper()
	c, err := rmq.NewLitePushConsumer(config(group), rmq.NewLitePushConsumerConfig(topic, 30*time.Second),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: consume}))
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() { stopped(t, c.GracefulStop) })
	return c
}

func sendLite(t *testing.T, p rmq.Producer, topic, name string, bodies []string) {
	t.Helper()
	for _, body := range bodies {
		send(t, p, topic, name+body, lite(name))
	}
}

func inLite(messages []got, name string) []string {
	var out []string
	for _, m := range messages {
		if m.GetLiteTopic() == name {
			out = append(out, strings.TrimPrefix(m.body(), name))
		}
	}
	return out
}

func TestLiteTopicsThatAreSubscribed(t *testing.T) {
	t.Parallel()
	needsLiteAndPriority(t)
	topic := newTopic(t, "LITE", 1)
	var seen box
	c := newLitePush(t, newGroup(t), topic, func(m *rmq.MessageView) rmq.ConsumerResult { seen.add(m); return rmq.SUCCESS })
	p := newProducer(t, topic)
	must(t, c.SubscribeLite("red"))
	must(t, c.SubscribeLite("green"))
	sendLite(t, p, topic, "red", numbers(20))
	sendLite(t, p, topic, "blue", numbers(5))
	sendLite(t, p, topic, "green", numbers(20))
	messages := seen.wait(t, 40, 2*soon)
	same(t, inLite(messages, "red"), numbers(20))
	same(t, inLite(messages, "green"), numbers(20))

	must(t, c.UnSubscribeLite("red"))
	sendLite(t, p, topic, "red", []string{"late"})
	must(t, c.SubscribeLite("blue")) // what is there already comes too
	same(t, inLite(seen.wait(t, 45, 2*soon), "blue"), numbers(5))
	time.Sleep(3 * time.Second)
	check(t, len(seen.all()) == 45, "more came: %v", bodies(seen.all()))
}

func TestLiteFailureComesAgain(t *testing.T) {
	t.Parallel()
	needsLiteAndPriority(t)
	topic := newTopic(t, "LITE", 1)
	var seen box
	c := newLitePush(t, newGroup(t), topic, func(m *rmq.MessageView) rmq.ConsumerResult {
		seen.add(m)
		if m.GetDeliveryAttempt() < 2 {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	})
	must(t, c.SubscribeLite("one"))
	sendLite(t, newProducer(t, topic), topic, "one", []string{"again"})
	same(t, inLite(seen.wait(t, 2, 2*soon), "one"), []string{"again", "again"})
}

func TestLiteTopicsThatAreRefused(t *testing.T) {
	t.Parallel()
	needsLiteAndPriority(t)
	topic, normal := newTopic(t, "LITE", 1), newTopic(t, "NORMAL", 1)
	p := newProducer(t, topic)
	for what, m := range map[string]*rmq.Message{
		"none":      message(topic, "x"),
		"to normal": message(normal, "x", lite("one")),
		"illegal":   message(topic, "x", lite("not/legal")),
	} {
		_, err := p.Send(context.Background(), m)
		check(t, err != nil, "%s: it went", what)
	}
}
