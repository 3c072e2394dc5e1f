package compat

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// ---- FIFO

var three = []string{"alpha", "beta", "gamma"}

func sendInterleaved(t *testing.T, p rmq.Producer, topic string, each int) {
	t.Helper()
	for i := range each {
		for _, name := range three {
			send(t, p, topic, fmt.Sprintf("%s:%d", name, i), messageGroup(name))
		}
	}
}

// byGroup gives the numbers of each message group in the order they came.
func byGroup(t *testing.T, messages []got) map[string][]int {
	t.Helper()
	out := map[string][]int{}
	for _, m := range messages {
		name, text, _ := strings.Cut(m.body(), ":")
		check(t, m.GetMessageGroup() != nil && *m.GetMessageGroup() == name, "%s came with another message group", m.body())
		number, err := strconv.Atoi(text)
		must(t, err)
		out[name] = append(out[name], number)
	}
	return out
}

func upTo(count int) []int {
	out := make([]int, count)
	for i := range out {
		out[i] = i
	}
	return out
}

func TestFifoOrder(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "FIFO", 4)
	c, p := newConsumer(t, newGroupOf(t, true, 17), topic, rmq.SUB_ALL), newProducer(t, topic)
	sendInterleaved(t, p, topic, 15)
	order := byGroup(t, c.take(45, 2*soon, long, 7, true))
	for _, name := range three {
		check(t, slices.Equal(order[name], upTo(15)), "%s: %v", name, order[name])
	}
}

func TestFifoRedeliversInOrder(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "FIFO", 4)
	c, p := newConsumer(t, newGroupOf(t, true, 17), topic, rmq.SUB_ALL), newProducer(t, topic)
	sendInterleaved(t, p, topic, 4)
	var done []got
	var refused got
	for end := time.Now().Add(2*soon + slack); len(done) < 12 && time.Now().Before(end); {
		for _, m := range c.once(1, minInvisible) {
			if refused.MessageView == nil && m.body() == "beta:1" {
				refused = m // its time runs out
				continue
			}
			if m.body() == "beta:1" {
				check(t, m.GetDeliveryAttempt() == 2, "beta:1 came again as attempt %d", m.GetDeliveryAttempt())
				check(t, m.at.Sub(refused.at) >= minInvisible-500*time.Millisecond, "again after %v", m.at.Sub(refused.at))
			}
			c.ack(m)
			done = append(done, m)
		}
	}
	check(t, refused.MessageView != nil, "beta:1 never came")
	order := byGroup(t, done)
	for _, name := range three {
		check(t, slices.Equal(order[name], upTo(4)), "%s: %v", name, order[name])
	}
}

func TestFifoWaitsForTheAck(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "FIFO", 2)
	c, p := newConsumer(t, newGroupOf(t, true, 17), topic, rmq.SUB_ALL), newProducer(t, topic)
	for _, body := range numbers(3) {
		send(t, p, topic, body, messageGroup("one"))
	}
	first := c.hold(soon, long)
	check(t, first.body() == "0000", "%s came first", first.body())
	c.nothing(5*time.Second, long)
	c.ack(first)
	same(t, bodies(c.drain(2)), numbers(3)[1:])
}

// TestFifoPush has no failures: after one this client goes on with the rest of its batch before it tries again.
func TestFifoPush(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "FIFO", 4)
	var seen box
	newPush(t, newGroupOf(t, true, 17), topic, func(m *rmq.MessageView) rmq.ConsumerResult {
		time.Sleep(5 * time.Millisecond)
		seen.add(m)
		return rmq.SUCCESS
	})
	sendInterleaved(t, newProducer(t, topic), topic, 8)
	order := byGroup(t, seen.wait(t, 24, 2*soon))
	for _, name := range three {
		check(t, slices.Equal(order[name], upTo(8)), "%s: %v", name, order[name])
	}
}

// ---- delay

func TestDelayIsNeverEarly(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "DELAY", 4)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	now := time.Now().Truncate(time.Second)
	for _, seconds := range []int{9, 3, 6} {
		send(t, p, topic, strconv.Itoa(seconds), deliverAt(now.Add(time.Duration(seconds)*time.Second)))
	}
	send(t, p, topic, "0", deliverAt(now.Add(-time.Minute)))
	messages := c.drain(4)
	same(t, bodies(messages), []string{"0", "3", "6", "9"})
	for _, m := range messages[1:] {
		seconds, _ := strconv.Atoi(m.body())
		due := now.Add(time.Duration(seconds) * time.Second)
		check(t, !m.at.Before(due.Add(-50*time.Millisecond)), "%s s: early by %v", m.body(), due.Sub(m.at))
		check(t, m.at.Before(due.Add(2*time.Second)), "%s s: late by %v", m.body(), m.at.Sub(due))
		check(t, m.GetDeliveryTimestamp() != nil && m.GetDeliveryTimestamp().Equal(due), "stamp %v", m.GetDeliveryTimestamp())
	}
	c.nothing(3*time.Second, long)
}

func TestRecall(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "DELAY", 4)
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic)
	at := time.Now().Add(8 * time.Second)
	stay, gone := send(t, p, topic, "stay", deliverAt(at)), send(t, p, topic, "gone", deliverAt(at))
	check(t, gone.RecallHandle != "" && gone.RecallHandle != stay.RecallHandle, "handles: %q %q", gone.RecallHandle, stay.RecallHandle)
	id, err := p.Recall(context.Background(), topic, gone.RecallHandle)
	must(t, err)
	check(t, id == gone.MessageID, "recalled %s, not %s", id, gone.MessageID)
	same(t, bodies(c.drain(1)), []string{"stay"})
	c.nothing(4*time.Second, long)
	_, err = p.Recall(context.Background(), topic, "bm90LWEtaGFuZGxl")
	check(t, err != nil, "a bad handle was taken")
}

// ---- transactions

// checker answers check-backs and remembers them.
type checker struct {
	box
	answer rmq.TransactionResolution
}

func (k *checker) option() rmq.ProducerOption {
	return rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: func(m *rmq.MessageView) rmq.TransactionResolution {
		k.add(m)
		return k.answer
	}})
}

func half(t *testing.T, p rmq.Producer, topic, body string) (rmq.Transaction, *rmq.SendReceipt) {
	t.Helper()
	transaction := p.BeginTransaction()
	receipts, err := p.SendWithTransaction(context.Background(), message(topic, body, tag("T"), property("a", "b")), transaction)
	must(t, err)
	check(t, receipts[0].TransactionId != "", "no transaction id")
	return transaction, receipts[0]
}

func TestTransactionCommit(t *testing.T) {
	t.Parallel()
	topic, k := newTopic(t, "TRANSACTION", 4), &checker{answer: rmq.ROLLBACK}
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic, k.option())
	transaction, receipt := half(t, p, topic, "commit")
	if early := c.once(1, long); len(early) != 0 {
		t.Fatal("a half message was delivered")
	}
	must(t, transaction.Commit())
	m := c.drain(1)[0]
	check(t, m.body() == "commit" && m.GetMessageId() == receipt.MessageID && *m.GetTag() == "T" && m.GetProperties()["a"] == "b", "%v", m)
	c.nothing(5*time.Second, long)
}

func TestTransactionRollback(t *testing.T) {
	t.Parallel()
	topic, k := newTopic(t, "TRANSACTION", 4), &checker{answer: rmq.COMMIT}
	c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic, k.option())
	lost, _ := half(t, p, topic, "rollback")
	must(t, lost.RollBack())
	kept, _ := half(t, p, topic, "visible")
	must(t, kept.Commit())
	same(t, bodies(c.drain(1)), []string{"visible"})
	c.nothing(txnCheck-5*time.Second, long)
	check(t, len(k.all()) == 0, "a decided transaction was checked back: %v", bodies(k.all()))
}

func TestTransactionCheckBack(t *testing.T) {
	for name, answer := range map[string]rmq.TransactionResolution{"commit": rmq.COMMIT, "rollback": rmq.ROLLBACK} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic, k := newTopic(t, "TRANSACTION", 4), &checker{answer: answer}
			c, p := newConsumer(t, newGroup(t), topic, rmq.SUB_ALL), newProducer(t, topic, k.option())
			_, receipt := half(t, p, topic, "orphan")
			asked := k.wait(t, 1, txnCheck)
			check(t, asked[0].GetMessageId() == receipt.MessageID && asked[0].body() == "orphan", "asked for %v", bodies(asked))
			if answer == rmq.COMMIT {
				same(t, bodies(c.drain(1)), []string{"orphan"})
			}
			c.nothing(6*time.Second, long)
		})
	}
}

// ---- push consumers, retries, dead letters

func TestPushConsumer(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	var seen box
	newPush(t, newGroup(t), topic, func(m *rmq.MessageView) rmq.ConsumerResult { seen.add(m); return rmq.SUCCESS })
	p := newProducer(t, topic)
	for _, body := range numbers(100) {
		send(t, p, topic, body)
	}
	seen.wait(t, 100, 2*soon)
	time.Sleep(3 * time.Second) // long enough for one that comes twice
	same(t, sorted(bodies(seen.all())), numbers(100))
}

func TestPushFilter(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	var tagged, priced box
	newPushOf(t, newGroup(t), topic, rmq.NewFilterExpression("A||B"),
		func(m *rmq.MessageView) rmq.ConsumerResult { tagged.add(m); return rmq.SUCCESS })
	newPushOf(t, newGroup(t), topic, rmq.NewFilterExpressionWithType("price > 2", rmq.SQL92),
		func(m *rmq.MessageView) rmq.ConsumerResult { priced.add(m); return rmq.SUCCESS })
	p := newProducer(t, topic)
	for i, name := range []string{"A", "B", "C", "A", "C"} {
		send(t, p, topic, fmt.Sprintf("%s%d", name, i), tag(name), property("price", strconv.Itoa(i)))
	}
	tagged.wait(t, 3, 2*soon)
	priced.wait(t, 2, 2*soon)
	time.Sleep(3 * time.Second)
	same(t, sorted(bodies(tagged.all())), []string{"A0", "A3", "B1"})
	same(t, sorted(bodies(priced.all())), []string{"A3", "C4"})
}

func TestPushRetryCountsAttempts(t *testing.T) {
	t.Parallel()
	topic := newTopic(t, "NORMAL", 4)
	var seen box
	newPush(t, newGroup(t), topic, func(m *rmq.MessageView) rmq.ConsumerResult {
		seen.add(m)
		if m.GetDeliveryAttempt() < 3 {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	})
	send(t, newProducer(t, topic), topic, "retry")
	messages := seen.wait(t, 3, soon+3*slack+10*time.Second)
	for i, m := range messages {
		check(t, int(m.GetDeliveryAttempt()) == i+1, "attempt %d came as number %d", m.GetDeliveryAttempt(), i+1)
	}
	check(t, messages[1].at.Sub(messages[0].at) >= 900*time.Millisecond, "no backoff: %v", messages[1].at.Sub(messages[0].at))
	time.Sleep(4 * time.Second)
	check(t, len(seen.all()) == 3, "it came %d times", len(seen.all()))
}

// deadLetters reads them once their topic is there: it may come into being with the first.
func deadLetters(t *testing.T, group string) *simple {
	t.Helper()
	reader, topic := newGroup(t), "%DLQ%"+group
	var c *simple
	until(t, soon+slack, func() bool {
		var err error
		c, err = startConsumer(t, reader, topic, rmq.SUB_ALL)
		return err == nil
	}, func() string { return topic + " is there" })
	return c
}

func TestDeadLetterAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	topic, group := newTopic(t, "NORMAL", 1), newGroupOf(t, false, 3)
	c, p := newConsumer(t, group, topic, rmq.SUB_ALL), newProducer(t, topic)
	sent := send(t, p, topic, "poison", tag("T"), property("a", "b"))
	for attempt := int32(1); attempt <= 3; attempt++ {
		m := c.hold(soon+slack, minInvisible)
		check(t, m.GetDeliveryAttempt() == attempt, "attempt %d, not %d", m.GetDeliveryAttempt(), attempt)
		must(t, c.ChangeInvisibleDuration(m.MessageView, time.Second))
	}
	c.nothing(8*time.Second, minInvisible)
	m := deadLetters(t, group).drain(1)[0]
	check(t, m.body() == "poison" && m.GetMessageId() == sent.MessageID && *m.GetTag() == "T" && m.GetProperties()["a"] == "b", "%v", m)
}

// TestFifoPushDeadLetter: a FIFO push consumer counts for itself and has the server move the message.
func TestFifoPushDeadLetter(t *testing.T) {
	t.Parallel()
	topic, group := newTopic(t, "FIFO", 1), newGroupOf(t, true, 2)
	var seen box
	newPush(t, group, topic, func(m *rmq.MessageView) rmq.ConsumerResult {
		seen.add(m)
		if string(m.GetBody()) == "poison" {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	})
	p := newProducer(t, topic)
	sent := send(t, p, topic, "poison", messageGroup("one"))
	seen.wait(t, 2, soon+slack)
	send(t, p, topic, "next", messageGroup("one"))
	same(t, bodies(seen.wait(t, 3, soon+slack)), []string{"poison", "poison", "next"})
	m := deadLetters(t, group).drain(1)[0]
	check(t, m.body() == "poison" && m.GetMessageId() == sent.MessageID, "%v", m)
}

// ---- several consumers of a group

func TestTwoSimpleConsumersShare(t *testing.T) {
	t.Parallel()
	topic, group := newTopic(t, "NORMAL", 8), newGroup(t)
	consumers := []*simple{newConsumer(t, group, topic, rmq.SUB_ALL), newConsumer(t, group, topic, rmq.SUB_ALL)}
	p := newProducer(t, topic)
	var total atomic.Int64
	var all sync.WaitGroup
	taken := make([][]string, len(consumers))
	for i, c := range consumers {
		all.Add(1)
		go func() {
			defer all.Done()
			for end := time.Now().Add(2 * soon); total.Load() < 200 && time.Now().Before(end); {
				views, _ := c.Receive(context.Background(), 4, long)
				for _, view := range views {
					if c.Ack(context.Background(), view) == nil {
						taken[i] = append(taken[i], string(view.GetBody()))
						total.Add(1)
					}
				}
			}
		}()
	}
	for _, body := range numbers(200) {
		send(t, p, topic, body)
	}
	all.Wait()
	same(t, sorted(append(append([]string(nil), taken[0]...), taken[1]...)), numbers(200))
	check(t, min(len(taken[0]), len(taken[1])) >= 20, "shared %d : %d", len(taken[0]), len(taken[1]))
}

func TestTwoPushConsumersShare(t *testing.T) {
	t.Parallel()
	topic, group := newTopic(t, "NORMAL", 8), newGroup(t)
	var one, two box
	listener := func(b *box) func(*rmq.MessageView) rmq.ConsumerResult {
		return func(m *rmq.MessageView) rmq.ConsumerResult { b.add(m); return rmq.SUCCESS }
	}
	newPush(t, group, topic, listener(&one))
	newPush(t, group, topic, listener(&two))
	p := newProducer(t, topic)
	// Warm-up until both are served; then two hundred.
	warm := 0
	until(t, 2*soon, func() bool {
		send(t, p, topic, fmt.Sprintf("warm%d", warm))
		warm++
		return len(one.all()) > 0 && len(two.all()) > 0
	}, func() string { return fmt.Sprintf("both are served: %d %d", len(one.all()), len(two.all())) })
	for _, body := range numbers(200) {
		send(t, p, topic, body)
		time.Sleep(5 * time.Millisecond)
	}
	until(t, 2*soon, func() bool { return len(one.all())+len(two.all()) >= 200+warm }, func() string { return "all came" })
	seen := slices.DeleteFunc(bodies(append(one.all(), two.all()...)), func(body string) bool { return strings.HasPrefix(body, "warm") })
	same(t, sorted(seen), numbers(200))
	check(t, min(len(one.all()), len(two.all())) >= 20, "shared %d : %d", len(one.all()), len(two.all()))
}

func TestAnotherConsumerInherits(t *testing.T) {
	t.Parallel()
	topic, group := newTopic(t, "NORMAL", 4), newGroup(t)
	one, two := newConsumer(t, group, topic, rmq.SUB_ALL), newConsumer(t, group, topic, rmq.SUB_ALL)
	p := newProducer(t, topic)
	for _, body := range numbers(8) {
		send(t, p, topic, body)
	}
	held := one.take(4, soon, minInvisible, 4, false)
	must(t, one.GracefulStop()) // never acks
	messages := two.take(8, soon+minInvisible+slack, long, 16, true)
	same(t, sorted(bodies(messages)), numbers(8))
	again := slices.DeleteFunc(messages, func(m got) bool { return m.GetDeliveryAttempt() == 1 })
	same(t, sorted(bodies(again)), sorted(bodies(held)))
}
