package kourou.compat;

import static kourou.compat.Env.LONG;
import static kourou.compat.Env.MIN_INVISIBLE;
import static kourou.compat.Env.SLACK;
import static kourou.compat.Env.SOON;
import static kourou.compat.Env.bodies;
import static kourou.compat.Env.message;
import static kourou.compat.Env.numbers;
import static kourou.compat.Env.seconds;
import static kourou.compat.Env.sorted;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SendReceiveTest {
    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void normalRoundTrip(boolean tls) throws Exception {
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            long before = System.currentTimeMillis();
            SendReceipt receipt = env.producer(topic).send(message(topic, "hällo").setTag("TagA").setKeys("k1", "k2")
                .addProperty("color", "red").addProperty("日本", "値").build());
            Env.Got got = consumer.drain(1).get(0);
            MessageView view = got.view;
            assertEquals("hällo", got.body);
            assertEquals(topic, view.getTopic());
            assertEquals("TagA", view.getTag().orElseThrow());
            assertEquals(Set.of("k1", "k2"), Set.copyOf(view.getKeys()));
            assertEquals(Map.of("color", "red", "日本", "値"), view.getProperties());
            assertEquals(receipt.getMessageId().toString(), got.id());
            assertEquals(1, view.getDeliveryAttempt());
            assertTrue(view.getBornTimestamp() >= before - 2000 && view.getBornTimestamp() <= System.currentTimeMillis());
            assertFalse(view.getBornHost().isEmpty());
            consumer.nothing(3);
        }
    }

    @Test
    void bodies_small_and_large() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            for (int size : new int[] {1, 65_537, 4 << 20}) {
                byte[] body = new byte[size];
                Arrays.fill(body, (byte) size);
                body[size / 2] = 42;
                producer.send(Env.PROVIDER.newMessageBuilder().setTopic(topic).setBody(body).build());
                assertEquals(ByteBuffer.wrap(body), consumer.drain(1).get(0).view.getBody(), size + " bytes");
            }
            Message tooLarge = Env.PROVIDER.newMessageBuilder().setTopic(topic).setBody(new byte[(4 << 20) + 1]).build();
            Exception refused = assertThrows(Exception.class, () -> producer.send(tooLarge));
            assertTrue(refused.toString().contains("body"), refused.toString());
        }
    }

    @Test
    void asyncSend() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 8);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            List<CompletableFuture<SendReceipt>> sends = new ArrayList<>();
            for (String body : numbers(200)) {
                sends.add(producer.sendAsync(message(topic, body).build()));
            }
            for (CompletableFuture<SendReceipt> send : sends) {
                send.get(20, TimeUnit.SECONDS);
            }
            assertEquals(numbers(200), sorted(consumer.take(200, SOON.multipliedBy(2), LONG, 32, true)));
            consumer.nothing(3);
        }
    }

    @Test
    void tagFilter() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker some = env.consumer(env.group(), topic, Env.tags("A || B"));
            Env.Taker all = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            for (String tag : List.of("A", "B", "C", "AB", "A")) {
                producer.send(message(topic, tag).setTag(tag).build());
            }
            producer.send(message(topic, "none").build());
            assertEquals(List.of("A", "A", "B"), sorted(some.drain(3)));
            some.nothing(3);
            assertEquals(6, all.drain(6).size());
        }
    }

    @Test
    void sqlFilter() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker consumer = env.consumer(env.group(), topic,
                Env.sql("(price BETWEEN 10 AND 200 AND region = 'eu') OR TAGS = 'always'"));
            Producer producer = env.producer(topic);
            String[][] rows = {{"5", "eu"}, {"11", "eu"}, {"11", "us"}, {"200", "eu"}, {"201", "eu"}};
            for (String[] row : rows) {
                producer.send(message(topic, row[0] + row[1]).addProperty("price", row[0])
                    .addProperty("region", row[1]).build());
            }
            producer.send(message(topic, "tagged").setTag("always").build());
            producer.send(message(topic, "bare").build());
            assertEquals(List.of("11eu", "200eu", "tagged"), sorted(consumer.drain(3)));
            consumer.nothing(3);
        }
    }

    @Test
    void ackIsFinal() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            for (String body : numbers(5)) {
                producer.send(message(topic, body).build());
            }
            consumer.take(5, SOON, MIN_INVISIBLE, 16, true);
            consumer.nothing(MIN_INVISIBLE.plusSeconds(4), MIN_INVISIBLE);
        }
    }

    @Test
    void redeliveryCountsAttempts() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            Env.Taker consumer = env.consumer(env.group(), topic);
            SendReceipt sent = env.producer(topic).send(message(topic, "again").setTag("T").addProperty("a", "b").build());
            Env.Got before = consumer.hold(SOON, MIN_INVISIBLE);
            assertEquals(1, before.view.getDeliveryAttempt());
            for (int attempt = 2; attempt <= 3; attempt++) {
                Env.Got got = consumer.hold(MIN_INVISIBLE.plus(SLACK).plusSeconds(5), MIN_INVISIBLE);
                long waited = got.at - before.at;
                assertTrue(waited >= MIN_INVISIBLE.toMillis() - 500 && waited <= MIN_INVISIBLE.plus(SLACK).toMillis(),
                    "redelivered after " + waited + " ms");
                assertEquals(attempt, got.view.getDeliveryAttempt());
                assertEquals(sent.getMessageId().toString(), got.id());
                assertEquals(List.of(topic, "again", "T", Map.of("a", "b")), List.of(got.view.getTopic(), got.body,
                    got.view.getTag().orElseThrow(), got.view.getProperties()));
                before = got;
            }
            consumer.ack(before);
            consumer.nothing(MIN_INVISIBLE.plusSeconds(3), MIN_INVISIBLE);
        }
    }

    @Test
    void changeInvisibleDuration() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            Env.Taker consumer = env.consumer(env.group(), topic);
            env.producer(topic).send(message(topic, "sooner").build());
            Env.Got got = consumer.hold(SOON, LONG.multipliedBy(2));
            long start = System.currentTimeMillis();
            consumer.consumer.changeInvisibleDuration(got.view, seconds(2));
            Env.Got again = consumer.hold(SLACK.plusSeconds(2), MIN_INVISIBLE);
            assertTrue(again.at - start >= 1500, "back after " + (again.at - start) + " ms");
            assertEquals(2, again.view.getDeliveryAttempt());
            consumer.consumer.changeInvisibleDuration(again.view, seconds(3600));
            consumer.nothing(MIN_INVISIBLE.plusSeconds(4), MIN_INVISIBLE);
            consumer.ack(again); // by the handle that the change gave
        }
    }

    @Test
    void staleReceiptHandleIsRefused() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 1);
            Env.Taker consumer = env.consumer(env.group(), topic);
            env.producer(topic).send(message(topic, "stale").build());
            Env.Got first = consumer.hold(SOON, MIN_INVISIBLE);
            Env.Got second = consumer.hold(MIN_INVISIBLE.plus(SLACK).plusSeconds(5), LONG);
            Exception refused = assertThrows(Exception.class, () -> consumer.ack(first));
            assertTrue(refused.toString().contains("40013"), refused.toString());
            consumer.ack(second);
        }
    }

    @Test
    void twoGroupsEachGetEverything() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker one = env.consumer(env.group(), topic);
            Env.Taker two = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            for (String body : numbers(10)) {
                producer.send(message(topic, body).build());
            }
            assertEquals(numbers(10), sorted(one.drain(10)));
            assertEquals(numbers(10), sorted(two.drain(10)));
        }
    }

    @Test
    void longPollIsWoken() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("NORMAL", 4);
            Env.Taker consumer = env.consumer(env.group(), topic);
            Producer producer = env.producer(topic);
            producer.send(message(topic, "warm").build());
            consumer.drain(1);
            List<Long> took = new ArrayList<>();
            for (int i = 0; i < 7; i++) {
                CompletableFuture<List<MessageView>> polled = consumer.consumer.receiveAsync(1, LONG);
                TimeUnit.MILLISECONDS.sleep(700); // parked by then
                long start = System.nanoTime();
                producer.send(message(topic, "x").build());
                List<MessageView> views = polled.get(20, TimeUnit.SECONDS);
                took.add(TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start));
                assertEquals(1, views.size());
                consumer.consumer.ack(views.get(0));
            }
            Collections.sort(took);
            assertTrue(took.get(3) < Env.LATENCY_MS, "send and wake-up took ms: " + took);
        }
    }

    @Test
    void errors() throws Exception {
        try (Env env = new Env()) {
            String normal = env.topic("NORMAL", 1);
            String fifo = env.topic("FIFO", 1);
            Producer producer = env.producer(normal);
            String unknown = Env.unknownTopic();
            Exception refused = assertThrows(Exception.class, () -> producer.send(message(unknown, "x").build()));
            assertTrue(refused.toString().contains("40402"), refused.toString());
            assertThrows(Exception.class, () -> env.producer(unknown));
            List<Message> mismatched = List.of(message(normal, "x").setMessageGroup("g").build(),
                message(normal, "x").setDeliveryTimestamp(System.currentTimeMillis() + 60_000).build(),
                message(fifo, "x").build());
            for (Message message : mismatched) {
                refused = assertThrows(Exception.class, () -> producer.send(message));
                assertTrue(refused.toString().contains("type"), refused.toString());
            }
            // What only the server checks.
            refused = assertThrows(Exception.class,
                () -> producer.send(message(normal, "x").addProperty("TAGS", "reserved").build()));
            assertTrue(refused.toString().contains("40007"), refused.toString());
            assertEquals(List.of(), bodies(env.consumer(env.group(), normal).once(1, LONG)));
        }
    }
}
