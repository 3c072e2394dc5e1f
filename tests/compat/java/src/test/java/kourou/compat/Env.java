package kourou.compat;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.fail;

import java.io.Closeable;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;

/**
 * Topics, groups and clients of one test; closes the clients. The environment names the server: ENDPOINT,
 * ADMIN_CREATE_TOPIC, ADMIN_CREATE_GROUP; see docs/compatibility.md.
 */
final class Env implements AutoCloseable {
    static final Duration MIN_INVISIBLE = knob("MIN_INVISIBLE_S", 10);
    static final Duration SLACK = knob("REDELIVERY_SLACK_S", 12);
    static final Duration TXN_CHECK = knob("TXN_CHECK_S", 15);
    static final long LATENCY_MS = knob("LATENCY_MS", 500).toMillis() / 1000;
    /** That topics are spread over; each has a priority of its own. */
    static final long BROKERS = knob("BROKERS", 1).toSeconds();
    static final Duration LONG = Duration.ofSeconds(60);
    static final Duration SOON = Duration.ofSeconds(30);
    /** The client's default; COMPAT_TLS=false runs the whole suite without. */
    static final boolean TLS = !"false".equals(System.getenv("COMPAT_TLS"));

    static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    static final FilterExpression ALL = FilterExpression.SUB_ALL;
    private static final String RUN = UUID.randomUUID().toString().substring(0, 8);
    private static final AtomicInteger NUMBER = new AtomicInteger();

    private final boolean tls;
    private final Deque<Closeable> open = new ArrayDeque<>();

    Env() {
        this(TLS);
    }

    Env(boolean tls) {
        this.tls = tls;
    }

    // ---- what the tests need of the world

    static Duration knob(String name, double otherwise) {
        String text = System.getenv(name);
        return Duration.ofMillis(Math.round(1000 * (text == null ? otherwise : Double.parseDouble(text))));
    }

    static Duration seconds(double seconds) {
        return Duration.ofMillis(Math.round(1000 * seconds));
    }

    static String unknownTopic() {
        return "no-such-" + RUN;
    }

    private static String hook(String variable, String kind, String... arguments) throws Exception {
        String name = "java-" + kind + NUMBER.incrementAndGet() + "-" + RUN;
        List<String> command = new ArrayList<>(Arrays.asList(System.getenv(variable).split(" ")));
        command.add(name);
        command.addAll(Arrays.asList(arguments));
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, process.waitFor(), command + ": " + output);
        return name;
    }

    String topic(String type, int queues) throws Exception {
        return hook("ADMIN_CREATE_TOPIC", "t", type, String.valueOf(queues));
    }

    String group() throws Exception {
        return group(false, 17);
    }

    String group(boolean fifo, int maxAttempts) throws Exception {
        return hook("ADMIN_CREATE_GROUP", "g", String.valueOf(fifo), String.valueOf(maxAttempts));
    }

    // ---- clients

    private ClientConfiguration configuration() {
        return ClientConfiguration.newBuilder().setEndpoints(System.getenv("ENDPOINT")).enableSsl(tls).build();
    }

    private synchronized <T extends Closeable> T opened(T client) {
        open.push(client);
        return client;
    }

    Producer producer(String topic) throws ClientException {
        return opened(PROVIDER.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic).build());
    }

    Producer producer(String topic, TransactionChecker checker) throws ClientException {
        return opened(PROVIDER.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic)
            .setTransactionChecker(checker).build());
    }

    Taker consumer(String group, String topic) throws ClientException {
        return consumer(group, topic, ALL);
    }

    Taker consumer(String group, String topic, FilterExpression filter) throws ClientException {
        return new Taker(opened(PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration())
            .setConsumerGroup(group).setAwaitDuration(seconds(5))
            .setSubscriptionExpressions(Collections.singletonMap(topic, filter)).build()));
    }

    PushConsumer push(String group, String topic, Function<MessageView, ConsumeResult> listener) throws ClientException {
        return push(group, topic, ALL, listener);
    }

    PushConsumer push(String group, String topic, FilterExpression filter, Function<MessageView, ConsumeResult> listener)
        throws ClientException {
        return opened(PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .setSubscriptionExpressions(Collections.singletonMap(topic, filter))
            .setMessageListener(listener::apply).build());
    }

    LitePushConsumer litePush(String group, String topic, Function<MessageView, ConsumeResult> listener)
        throws ClientException {
        return opened(PROVIDER.newLitePushConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .bindTopic(topic).setMessageListener(listener::apply).build());
    }

    /** All at once: a push consumer waits for its long polls. */
    @Override
    public void close() throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (Closeable client : open) {
            Thread thread = new Thread(() -> {
                try {
                    client.close();
                } catch (Exception e) {
                    System.out.println("close: " + e); // must not fail the test that it served
                }
            });
            thread.setDaemon(true);
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join(3000);
        }
    }

    // ---- messages

    static MessageBuilder message(String topic, String body) {
        return PROVIDER.newMessageBuilder().setTopic(topic).setBody(body.getBytes(StandardCharsets.UTF_8));
    }

    static FilterExpression tags(String expression) {
        return new FilterExpression(expression, FilterExpressionType.TAG);
    }

    static FilterExpression sql(String expression) {
        return new FilterExpression(expression, FilterExpressionType.SQL92);
    }

    static String body(MessageView view) {
        return StandardCharsets.UTF_8.decode(view.getBody()).toString();
    }

    static List<String> bodies(List<Got> messages) {
        return messages.stream().map(m -> m.body).collect(Collectors.toList());
    }

    static List<String> sorted(List<Got> messages) {
        return messages.stream().map(m -> m.body).sorted().collect(Collectors.toList());
    }

    static List<String> numbers(int count) {
        return IntStream.range(0, count).mapToObj(i -> String.format("%04d", i)).collect(Collectors.toList());
    }

    static void until(Duration within, BooleanSupplier condition, Supplier<String> what) throws InterruptedException {
        long end = System.nanoTime() + within.toNanos();
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > end) {
                fail("not within " + within + ": " + what.get());
            }
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    /** A message and when it came. */
    static final class Got {
        final MessageView view;
        final String body;
        final long at = System.currentTimeMillis();

        Got(MessageView view) {
            this.view = view;
            this.body = Env.body(view);
        }

        String id() {
            return view.getMessageId().toString();
        }
    }

    /** Collects what a listener or a checker sees. */
    static final class Box {
        private final List<Got> messages = new ArrayList<>();

        synchronized int add(MessageView view) {
            messages.add(new Got(view));
            return messages.size();
        }

        synchronized List<Got> all() {
            return new ArrayList<>(messages);
        }

        List<Got> await(int want, Duration within) throws InterruptedException {
            until(within, () -> all().size() >= want, () -> want + " messages: " + bodies(all()));
            return all();
        }
    }

    /** A simple consumer with the loops that tests need. */
    static final class Taker {
        final SimpleConsumer consumer;

        Taker(SimpleConsumer consumer) {
            this.consumer = consumer;
        }

        List<Got> once(int batch, Duration invisible) throws ClientException {
            return consumer.receive(batch, invisible).stream().map(Got::new).collect(Collectors.toList());
        }

        void ack(Got message) throws ClientException {
            consumer.ack(message.view);
        }

        /** Receives until so many came; fewer is a failure. */
        List<Got> take(int want, Duration within, Duration invisible, int batch, boolean ack) throws ClientException {
            List<Got> all = new ArrayList<>();
            long end = System.nanoTime() + within.toNanos();
            while (all.size() < want && System.nanoTime() < end) {
                for (Got message : once(batch, invisible)) {
                    all.add(message);
                    if (ack) {
                        ack(message);
                    }
                }
            }
            if (all.size() < want) {
                fail(all.size() + " messages came within " + within + ", not " + want + ": " + bodies(all));
            }
            return all;
        }

        List<Got> drain(int want) throws ClientException {
            return take(want, SOON, LONG, 32, true);
        }

        Got hold(Duration within, Duration invisible) throws ClientException {
            return take(1, within, invisible, 1, false).get(0);
        }

        void nothing(Duration during, Duration invisible) throws ClientException {
            long end = System.nanoTime() + during.toNanos();
            while (System.nanoTime() < end) {
                List<Got> all = once(16, invisible);
                if (!all.isEmpty()) {
                    fail("unexpected: " + bodies(all) + ", attempt " + all.get(0).view.getDeliveryAttempt());
                }
            }
        }

        void nothing(double seconds) throws ClientException {
            nothing(Env.seconds(seconds), LONG);
        }
    }
}
