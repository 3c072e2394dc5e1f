package kourou.compat;

import static kourou.compat.Env.LONG;
import static kourou.compat.Env.MIN_INVISIBLE;
import static kourou.compat.Env.SLACK;
import static kourou.compat.Env.SOON;
import static kourou.compat.Env.TXN_CHECK;
import static kourou.compat.Env.bodies;
import static kourou.compat.Env.message;
import static kourou.compat.Env.numbers;
import static kourou.compat.Env.seconds;
import static kourou.compat.Env.sorted;
import static org.apache.rocketmq.client.apis.consumer.ConsumeResult.FAILURE;
import static org.apache.rocketmq.client.apis.consumer.ConsumeResult.SUCCESS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class FeaturesTest {
    private static final List<String> THREE = List.of("alpha", "beta", "gamma");

    // ---- FIFO

    private static void sendInterleaved(Producer producer, String topic, int each) throws Exception {
        for (int i = 0; i < each; i++) {
            for (String name : THREE) {
                producer.send(message(topic, name + ":" + i).setMessageGroup(name).build());
            }
        }
    }

    /** The numbers of each message group in the order they came. */
    private static Map<String, List<Integer>> byGroup(List<Env.Got> messages) {
        Map<String, List<Integer>> order = new TreeMap<>();
        for (Env.Got message : messages) {
            String[] parts = message.body.split(":");
            assertEquals(parts[0], message.view.getMessageGroup().orElse(null), message.body);
            order.computeIfAbsent(parts[0], name -> new ArrayList<>()).add(Integer.valueOf(parts[1]));
        }
        return order;
    }

    private static Map<String, List<Integer>> inOrder(int each) {
        List<Integer> numbers = IntStream.range(0, each).boxed().collect(Collectors.toList());
        return new TreeMap<>(THREE.stream().collect(Collectors.toMap(name -> name, name -> numbers)));
    }

    @Test
    void fifoOrder() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("FIFO", 4);
            Env.Taker consumer = env.consumer(env.group(true, 17), topic);
            sendInterleaved(env.producer(topic), topic, 15);
            assertEquals(inOrder(15), byGroup(consumer.take(45, SOON.multipliedBy(2), LONG, 7, true)));
        }
    }

    @Test
    void fifoRedeliversInOrder() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("FIFO", 4);
            Env.Taker consumer = env.consumer(env.group(true, 17), topic);
            sendInterleaved(env.producer(topic), topic, 4);
            List<Env.Got> done = new ArrayList<>();
            Env.Got refused = null;
            long end = System.nanoTime() + SOON.multipliedBy(2).plus(SLACK).toNanos();
            while (done.size() < 12 && System.nanoTime() < end) {
                for (Env.Got got : consumer.once(1, MIN_INVISIBLE)) {
                    if (got.body.equals("beta:1")) {
                        if (refused == null) {
                            refused = got; // its time runs out
                            continue;
                        }
                        assertEquals(2, got.view.getDeliveryAttempt());
                        assertTrue(got.at - refused.at >= MIN_INVISIBLE.toMillis() - 500, "again at once");
                    }
                    consumer.ack(got);
                    done.add(got);
                }
            }
            assertNotNull(refused);
            assertEquals(inOrder(4), byGroup(done));
        }
    }

    @Test
    void fifoWaitsForTheAck() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("FIFO", 2);
            Env.Taker consumer = env.consumer(env.group(true, 17), topic);
            Producer producer = env.producer(topic);
            for (String body : numbers(3)) {
                producer.send(message(topic, body).setMessageGroup("one").build());
            }
            Env.Got first = consumer.hold(SOON, LONG);
            assertEquals("0000", first.body);
            consumer.nothing(5);
            consumer.ack(first);
            assertEquals(numbers(3).subList(1, 3), bodies(consumer.drain(2)));
        }
    }

    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void fifoPushRetriesInOrder(boolean tls) throws Exception {
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("FIFO", 4);
            Env.Box seen = new Env.Box();
            env.push(env.group(true, 17), topic, view -> {
                seen.add(view);
                return Env.body(view).equals("alpha:2") && view.getDeliveryAttempt() == 1 ? FAILURE : SUCCESS;
            });
            sendInterleaved(env.producer(topic), topic, 8);
            Map<String, List<Integer>> expected = inOrder(8);
            expected.put("alpha", List.of(0, 1, 2, 2, 3, 4, 5, 6, 7));
            assertEquals(expected, byGroup(seen.await(25, SOON.multipliedBy(2))));
        }
    }

    // ---- delay

    @Test
    void delayIsNeverEarly() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("DELAY", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            long now = System.currentTimeMillis() / 1000 * 1000;
            for (int seconds : new int[] {9, 3, 6}) {
                producer.send(message(topic, "" + seconds).setDeliveryTimestamp(now + 1000L * seconds).build());
            }
            producer.send(message(topic, "0").setDeliveryTimestamp(now - 60_000).build());
            List<Env.Got> messages = consumer.drain(4);
            assertEquals(List.of("0", "3", "6", "9"), bodies(messages));
            for (Env.Got got : messages.subList(1, 4)) {
                long due = now + 1000 * Long.parseLong(got.body);
                assertTrue(got.at >= due - 50, got.body + " s: early by " + (due - got.at) + " ms");
                assertTrue(got.at <= due + 2000, got.body + " s: late by " + (got.at - due) + " ms");
                assertEquals(due, got.view.getDeliveryTimestamp().orElseThrow());
            }
            consumer.nothing(3);
        }
    }

    @Test
    void recall() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("DELAY", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            long at = System.currentTimeMillis() + 8000;
            SendReceipt stay = producer.send(message(topic, "stay").setDeliveryTimestamp(at).build());
            SendReceipt gone = producer.send(message(topic, "gone").setDeliveryTimestamp(at).build());
            assertFalse(gone.getRecallHandle().isEmpty());
            assertNotEquals(stay.getRecallHandle(), gone.getRecallHandle());
            assertEquals(gone.getMessageId(), producer.recallMessage(topic, gone.getRecallHandle()).getMessageId());
            assertEquals(List.of("stay"), bodies(consumer.drain(1)));
            consumer.nothing(4);
            assertThrows(Exception.class, () -> producer.recallMessage(topic, "bm90LWEtaGFuZGxl"));
        }
    }

    // ---- transactions

    /** Answers check-backs and remembers them. */
    private static final class Checker implements TransactionChecker {
        final Env.Box asked = new Env.Box();
        private final TransactionResolution answer;

        Checker(TransactionResolution answer) {
            this.answer = answer;
        }

        @Override
        public TransactionResolution check(MessageView view) {
            asked.add(view);
            return answer;
        }
    }

    private static SendReceipt half(Producer producer, Transaction transaction, String topic, String body) throws Exception {
        return producer.send(message(topic, body).setTag("T").addProperty("a", "b").build(), transaction);
    }

    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void transactionCommit(boolean tls) throws Exception {
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("TRANSACTION", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic, new Checker(TransactionResolution.ROLLBACK));
            Transaction transaction = producer.beginTransaction();
            SendReceipt sent = half(producer, transaction, topic, "commit");
            assertEquals(List.of(), consumer.once(1, LONG)); // a half message is invisible
            transaction.commit();
            Env.Got got = consumer.drain(1).get(0);
            assertEquals(List.of("commit", sent.getMessageId().toString(), "T"),
                List.of(got.body, got.id(), got.view.getTag().orElseThrow()));
            assertEquals("b", got.view.getProperties().get("a")); // RocketMQ adds __transactionId__
            consumer.nothing(5);
        }
    }

    @Test
    void transactionRollback() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("TRANSACTION", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Checker checker = new Checker(TransactionResolution.COMMIT);
            Producer producer = env.producer(topic, checker);
            Transaction lost = producer.beginTransaction();
            half(producer, lost, topic, "rollback");
            lost.rollback();
            Transaction kept = producer.beginTransaction();
            half(producer, kept, topic, "visible");
            kept.commit();
            assertEquals(List.of("visible"), bodies(consumer.drain(1)));
            consumer.nothing(TXN_CHECK.minusSeconds(5), LONG);
            assertEquals(List.of(), bodies(checker.asked.all()), "a decided transaction was checked back");
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"COMMIT", "ROLLBACK"})
    void transactionCheckBack(TransactionResolution answer) throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("TRANSACTION", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Checker checker = new Checker(answer);
            Producer producer = env.producer(topic, checker);
            SendReceipt sent = half(producer, producer.beginTransaction(), topic, "orphan");
            Env.Got asked = checker.asked.await(1, TXN_CHECK).get(0);
            assertEquals(List.of("orphan", sent.getMessageId().toString()), List.of(asked.body, asked.id()));
            if (answer == TransactionResolution.COMMIT) {
                assertEquals(List.of("orphan"), bodies(consumer.drain(1)));
            }
            consumer.nothing(6);
        }
    }

    // ---- push consumers, retries, dead letters

    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void pushConsumer(boolean tls) throws Exception {
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("NORMAL", 4);
            Env.Box seen = new Env.Box();
            env.push(env.group(), topic, view -> {
                seen.add(view);
                return SUCCESS;
            });
            Producer producer = env.producer(topic);
            for (String body : numbers(100)) {
                producer.send(message(topic, body).build());
            }
            seen.await(100, SOON.multipliedBy(2));
            TimeUnit.SECONDS.sleep(3); // long enough for one that comes twice
            assertEquals(numbers(100), sorted(seen.all()));
        }
    }

    @Test
    void pushFilter() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Box tagged = new Env.Box();
            Env.Box priced = new Env.Box();
            env.push(env.group(), topic, Env.tags("A||B"), view -> tagged.add(view) > 0 ? SUCCESS : FAILURE);
            env.push(env.group(), topic, Env.sql("price > 2"), view -> priced.add(view) > 0 ? SUCCESS : FAILURE);
            Producer producer = env.producer(topic);
            int price = 0;
            for (String tag : List.of("A", "B", "C", "A", "C")) {
                producer.send(message(topic, tag + price).setTag(tag).addProperty("price", "" + price).build());
                price++;
            }
            tagged.await(3, SOON.multipliedBy(2));
            priced.await(2, SOON.multipliedBy(2));
            TimeUnit.SECONDS.sleep(3);
            assertEquals(List.of("A0", "A3", "B1"), sorted(tagged.all()));
            assertEquals(List.of("A3", "C4"), sorted(priced.all()));
        }
    }

    @Test
    void pushRetryCountsAttempts() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Box seen = new Env.Box();
            env.push(env.group(), topic, view -> {
                seen.add(view);
                return view.getDeliveryAttempt() < 3 ? FAILURE : SUCCESS;
            });
            env.producer(topic).send(message(topic, "retry").build());
            List<Env.Got> messages = seen.await(3, SOON.plus(SLACK.multipliedBy(3)).plusSeconds(10));
            assertEquals(List.of(1, 2, 3),
                messages.stream().map(m -> m.view.getDeliveryAttempt()).collect(Collectors.toList()));
            assertTrue(messages.get(1).at - messages.get(0).at >= 900, "no backoff");
            TimeUnit.SECONDS.sleep(4);
            assertEquals(3, seen.all().size());
        }
    }

    /** The topic of dead letters may come into being with the first of them. */
    private static Env.Got deadLetter(Env env, String group) throws Exception {
        String reader = env.group();
        AtomicReference<Env.Taker> consumer = new AtomicReference<>();
        Env.until(SOON.plus(SLACK), () -> {
            try {
                consumer.set(env.consumer(reader, "%DLQ%" + group));
            } catch (ClientException | IllegalStateException e) {
                return false;
            }
            return true;
        }, () -> "%DLQ%" + group + " is there");
        return consumer.get().drain(1).get(0);
    }

    @Test
    void deadLetterAfterMaxAttempts() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            String group = env.group(false, 3);
            Env.Taker consumer = env.consumer(group, topic);
            SendReceipt sent = env.producer(topic).send(message(topic, "poison").setTag("T").addProperty("a", "b").build());
            for (int attempt = 1; attempt <= 3; attempt++) {
                Env.Got got = consumer.hold(SOON.plus(SLACK), MIN_INVISIBLE);
                assertEquals(attempt, got.view.getDeliveryAttempt());
                consumer.consumer.changeInvisibleDuration(got.view, seconds(1));
            }
            consumer.nothing(seconds(8), MIN_INVISIBLE);
            Env.Got dead = deadLetter(env, group);
            assertEquals(List.of("poison", sent.getMessageId().toString(), "T"),
                List.of(dead.body, dead.id(), dead.view.getTag().orElseThrow()));
            assertEquals("b", dead.view.getProperties().get("a"));
        }
    }

    @Test
    void pushDeadLetterAfterMaxAttempts() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            String group = env.group(false, 2);
            Env.Box seen = new Env.Box();
            env.push(group, topic, view -> seen.add(view) > 0 ? FAILURE : SUCCESS);
            SendReceipt sent = env.producer(topic).send(message(topic, "poison").build());
            seen.await(2, SOON.plus(SLACK).plusSeconds(10));
            Env.Got dead = deadLetter(env, group);
            assertEquals(sent.getMessageId().toString(), dead.id());
            assertEquals(2, seen.all().size());
        }
    }

    /** A FIFO push consumer counts for itself and has the server move the message. */
    @Test
    void fifoPushDeadLetter() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("FIFO", 1);
            String group = env.group(true, 2);
            Env.Box seen = new Env.Box();
            env.push(group, topic, view -> {
                seen.add(view);
                return Env.body(view).equals("poison") ? FAILURE : SUCCESS;
            });
            Producer producer = env.producer(topic);
            SendReceipt sent = producer.send(message(topic, "poison").setMessageGroup("one").build());
            producer.send(message(topic, "next").setMessageGroup("one").build());
            assertEquals(List.of("poison", "poison", "next"), bodies(seen.await(3, SOON.multipliedBy(2).plus(SLACK))));
            assertEquals(sent.getMessageId().toString(), deadLetter(env, group).id());
        }
    }

    // ---- several consumers of a group

    @Test
    void twoSimpleConsumersShare() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 8);
            String group = env.group();
            List<Env.Taker> consumers = List.of(env.consumer(group, topic), env.consumer(group, topic));
            List<List<String>> taken = List.of(new ArrayList<>(), new ArrayList<>());
            Producer producer = env.producer(topic);
            AtomicInteger total = new AtomicInteger();
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 2; i++) {
                Env.Taker consumer = consumers.get(i);
                List<String> mine = taken.get(i);
                Thread thread = new Thread(() -> {
                    long end = System.nanoTime() + SOON.multipliedBy(2).toNanos();
                    while (total.get() < 200 && System.nanoTime() < end) {
                        try {
                            for (Env.Got got : consumer.once(4, LONG)) {
                                consumer.ack(got);
                                mine.add(got.body);
                                total.incrementAndGet();
                            }
                        } catch (Exception e) {
                            System.out.println("receive: " + e);
                        }
                    }
                });
                thread.start();
                threads.add(thread);
            }
            for (String body : numbers(200)) {
                producer.send(message(topic, body).build());
            }
            for (Thread thread : threads) {
                thread.join();
            }
            List<String> all = new ArrayList<>(taken.get(0));
            all.addAll(taken.get(1));
            Collections.sort(all);
            assertEquals(numbers(200), all);
            int least = Math.min(taken.get(0).size(), taken.get(1).size());
            assertTrue(least >= 20, "one got only " + least);
        }
    }

    @Test
    void twoPushConsumersShare() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 8);
            String group = env.group();
            Env.Box one = new Env.Box();
            Env.Box two = new Env.Box();
            for (Env.Box box : List.of(one, two)) {
                env.push(group, topic, view -> {
                    box.add(view);
                    return ConsumeResult.SUCCESS;
                });
            }
            Producer producer = env.producer(topic);
            AtomicInteger warm = new AtomicInteger();
            Env.until(SOON.multipliedBy(2), () -> { // both are served
                try {
                    producer.send(message(topic, "warm" + warm.getAndIncrement()).build());
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
                return !one.all().isEmpty() && !two.all().isEmpty();
            }, () -> "both are served: " + one.all().size() + " " + two.all().size());
            for (String body : numbers(200)) {
                producer.send(message(topic, body).build());
                TimeUnit.MILLISECONDS.sleep(5);
            }
            Env.until(SOON.multipliedBy(2), () -> one.all().size() + two.all().size() >= 200 + warm.get(),
                () -> one.all().size() + " and " + two.all().size() + " came");
            List<Env.Got> all = one.all();
            all.addAll(two.all());
            all.removeIf(got -> got.body.startsWith("warm"));
            assertEquals(numbers(200), sorted(all));
            int least = Math.min(one.all().size(), two.all().size());
            assertTrue(least >= 20, "one got only " + least);
        }
    }

    @Test
    void anotherConsumerInherits() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            String group = env.group();
            Env.Taker one = env.consumer(group, topic);
            Env.Taker two = env.consumer(group, topic);
            Producer producer = env.producer(topic);
            for (String body : numbers(8)) {
                producer.send(message(topic, body).build());
            }
            List<Env.Got> held = one.take(4, SOON, MIN_INVISIBLE, 4, false);
            one.consumer.close(); // never acks
            List<Env.Got> messages = two.take(8, SOON.plus(MIN_INVISIBLE).plus(SLACK), LONG, 16, true);
            assertEquals(numbers(8), sorted(messages));
            messages.removeIf(got -> got.view.getDeliveryAttempt() == 1);
            assertEquals(sorted(held), sorted(messages));
        }
    }
}
