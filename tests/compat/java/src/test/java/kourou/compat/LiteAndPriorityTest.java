package kourou.compat;

import static kourou.compat.Env.LONG;
import static kourou.compat.Env.SOON;
import static kourou.compat.Env.bodies;
import static kourou.compat.Env.message;
import static kourou.compat.Env.numbers;
import static org.apache.rocketmq.client.apis.consumer.ConsumeResult.FAILURE;
import static org.apache.rocketmq.client.apis.consumer.ConsumeResult.SUCCESS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.OffsetOption;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What RocketMQ 5.3 does not serve, and the client offers. */
@EnabledIfEnvironmentVariable(named = "LITE_AND_PRIORITY", matches = "true")
class LiteAndPriorityTest {
    /** Sooner than the client repeats the whole of its subscriptions. */
    private static final Duration HEARD = Duration.ofSeconds(20);

    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void higherPriorityFirst(boolean tls) throws Exception {
        assumeTrue(Env.BROKERS == 1, "each broker has an order of its own");
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("PRIORITY", 4);
            Producer producer = env.producer(topic);
            for (int priority : new int[] {1, 0, 3, 2}) {
                for (int i = 0; i < 5; i++) {
                    producer.send(message(topic, priority + ":" + i).setPriority(priority).build());
                }
            }
            List<Env.Got> messages = env.consumer(env.group(), topic).take(20, SOON, LONG, 4, true);
            List<String> wanted = IntStream.range(0, 20).mapToObj(i -> (3 - i / 5) + ":" + i % 5)
                .collect(Collectors.toList());
            assertEquals(wanted, bodies(messages));
            for (Env.Got got : messages) {
                assertEquals(Integer.valueOf(got.body.substring(0, 1)), got.view.getPriority().orElseThrow());
            }
        }
    }

    @Test
    void priorityNeedsItsTopic() throws Exception {
        try (Env env = new Env()) {
            String normal = env.topic("NORMAL", 1);
            Producer producer = env.producer(normal);
            assertThrows(Exception.class, () -> producer.send(message(normal, "x").setPriority(1).build()));
        }
    }

    private static void send(Producer producer, String topic, String lite, List<String> bodies) throws Exception {
        for (String body : bodies) {
            producer.send(message(topic, lite + body).setLiteTopic(lite).build());
        }
    }

    private static List<String> in(List<Env.Got> messages, String lite) {
        return messages.stream().filter(got -> got.view.getLiteTopic().orElse("").equals(lite))
            .map(got -> got.body.substring(lite.length())).collect(Collectors.toList());
    }

    @ParameterizedTest(name = "TLS {0}")
    @ValueSource(booleans = {true, false})
    void liteTopicsThatAreSubscribed(boolean tls) throws Exception {
        try (Env env = new Env(tls && Env.TLS)) {
            String topic = env.topic("LITE", 1);
            Env.Box seen = new Env.Box();
            LitePushConsumer consumer = env.litePush(env.group(), topic, view -> seen.add(view) > 0 ? SUCCESS : FAILURE);
            Producer producer = env.producer(topic);
            consumer.subscribeLite("red");
            consumer.subscribeLite("green");
            assertEquals(Set.of("red", "green"), consumer.getLiteTopicSet());
            send(producer, topic, "red", numbers(20));
            send(producer, topic, "blue", numbers(5));
            send(producer, topic, "green", numbers(20));
            List<Env.Got> messages = seen.await(40, HEARD);
            assertEquals(numbers(20), in(messages, "red"));
            assertEquals(numbers(20), in(messages, "green"));

            consumer.unsubscribeLite("red");
            send(producer, topic, "red", List.of("late"));
            consumer.subscribeLite("blue"); // what is there already comes too
            messages = seen.await(45, HEARD);
            assertEquals(numbers(5), in(messages, "blue"));
            TimeUnit.SECONDS.sleep(3);
            assertEquals(45, seen.all().size(), bodies(seen.all()).toString());
        }
    }

    @Test
    void liteFailuresKeepTheOrder() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("LITE", 1);
            Env.Box seen = new Env.Box();
            LitePushConsumer consumer = env.litePush(env.group(), topic, view -> {
                seen.add(view);
                return Env.body(view).endsWith("0001") && view.getDeliveryAttempt() < 2 ? FAILURE : SUCCESS;
            });
            consumer.subscribeLite("one");
            send(env.producer(topic), topic, "one", numbers(4));
            Env.until(HEARD, () -> bodies(seen.all()).contains("one0003"), () -> bodies(seen.all()).toString());
            List<String> firsts = new ArrayList<>(new LinkedHashSet<>(in(seen.all(), "one")));
            assertEquals(numbers(4), firsts);
            assertEquals(5, seen.all().size());
        }
    }

    @Test
    void liteFromTheEnd() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("LITE", 1);
            Producer producer = env.producer(topic);
            send(producer, topic, "one", numbers(5));
            Env.Box seen = new Env.Box();
            LitePushConsumer consumer = env.litePush(env.group(), topic, view -> seen.add(view) > 0 ? SUCCESS : FAILURE);
            consumer.subscribeLite("one", OffsetOption.ofTailN(2));
            assertEquals(List.of("0003", "0004"), in(seen.await(2, HEARD), "one"));
            TimeUnit.SECONDS.sleep(2);
            assertEquals(2, seen.all().size());
        }
    }

    @Test
    void liteTopicsThatAreRefused() throws Exception {
        try (Env env = new Env()) {
            String topic = env.topic("LITE", 1);
            String normal = env.topic("NORMAL", 1);
            Producer producer = env.producer(topic);
            assertThrows(Exception.class, () -> producer.send(message(topic, "x").build()));
            assertThrows(Exception.class, () -> producer.send(message(normal, "x").setLiteTopic("one").build()));
            Exception refused = assertThrows(Exception.class,
                () -> producer.send(message(topic, "x").setLiteTopic("not/legal").build()));
            assertTrue(refused.toString().contains("lite"), refused.toString());
        }
    }
}
