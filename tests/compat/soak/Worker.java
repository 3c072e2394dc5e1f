import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Collections;
import java.util.Locale;
import java.util.concurrent.Callable;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * The soak's worker of the official Java client, over TLS: push consumers for normal and FIFO messages, simple ones for the
 * rest. See run.py for the protocol.
 */
public final class Worker {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    private static String endpoint;
    private static String name;
    private static double rate;
    private static volatile boolean sending = true;
    private static volatile boolean running = true;

    private Worker() {
    }

    private static long now() {
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000_000L + now.getNano();
    }

    private static void say(String op, String body, String more) {
        String line = String.format(Locale.ROOT, "{\"op\":\"%s\",\"body\":\"%s\",\"at\":%d%s}", op, body, now(), more);
        synchronized (System.out) {
            System.out.println(line);
            System.out.flush();
        }
    }

    private static void complain(String what, Throwable error) {
        System.err.println(name + " " + what + ": " + error);
    }

    private static ClientConfiguration configuration() {
        return ClientConfiguration.newBuilder().setEndpoints(endpoint).build();
    }

    private static <T> T persist(Callable<T> make) throws InterruptedException {
        while (true) {
            try {
                return make.call();
            } catch (Exception e) {
                complain("start", e);
                Thread.sleep(1000);
            }
        }
    }

    private static String text(MessageView view) {
        return StandardCharsets.UTF_8.decode(view.getBody()).toString();
    }

    private static void produce(String kind, String topic) throws InterruptedException {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        Producer producer = persist(() -> PROVIDER.newProducerBuilder().setClientConfiguration(configuration())
            .setTopics(topic).setTransactionChecker(
                view -> text(view).endsWith(":r") ? TransactionResolution.ROLLBACK : TransactionResolution.COMMIT)
            .build());
        for (int number = 1; sending; number++) {
            Thread.sleep((long) (-Math.log(1 - random.nextDouble()) * 4000 / rate));
            char fate = kind.equals("transaction") ? "cccccccuur".charAt(random.nextInt(10)) : 'c';
            int lane = random.nextInt(5);
            String body = name + ":" + kind + ":" + lane + ":" + number + ":" + fate;
            MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(topic).setBody(body.getBytes(StandardCharsets.UTF_8));
            if (kind.equals("fifo")) {
                builder.setMessageGroup(name + "-" + lane);
            }
            if (kind.equals("delay")) {
                builder.setDeliveryTimestamp(System.currentTimeMillis() + 2000 + random.nextInt(6000));
            }
            String since = ",\"since\":" + now();
            Transaction transaction = null;
            try {
                if (kind.equals("transaction")) {
                    transaction = producer.beginTransaction();
                    producer.send(builder.build(), transaction);
                } else {
                    producer.send(builder.build());
                }
            } catch (Exception e) {
                say("unsent", body, since);
                complain("send", e);
                Thread.sleep(200);
                continue;
            }
            say("sent", body, since);
            try {
                if (transaction != null && fate == 'c') {
                    transaction.commit();
                } else if (transaction != null && fate == 'r') {
                    transaction.rollback();
                }
            } catch (Exception e) { // then the check-back decides
                complain("end", e);
            }
        }
    }

    private static String got(MessageView view, String group) {
        String due = view.getDeliveryTimestamp().map(String::valueOf).orElse("null");
        say("got", text(view), group + ",\"attempt\":" + view.getDeliveryAttempt() + ",\"due\":" + due);
        return text(view);
    }

    /** What becomes of the ack of a push consumer is its own affair. */
    private static ConsumeResult listen(MessageView view, String group) {
        String body = got(view, group);
        if (ThreadLocalRandom.current().nextInt(100) < 4) {
            return ConsumeResult.FAILURE;
        }
        say("settled", body, group);
        return ConsumeResult.SUCCESS;
    }

    private static void consume(String topic, String groupName, String group) throws InterruptedException {
        SimpleConsumer consumer = persist(() -> PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration())
            .setConsumerGroup(groupName).setAwaitDuration(Duration.ofSeconds(5))
            .setSubscriptionExpressions(Collections.singletonMap(topic, FilterExpression.SUB_ALL)).build());
        while (running) {
            try {
                for (MessageView view : consumer.receive(8, Duration.ofSeconds(10))) {
                    String body = got(view, group);
                    int fate = ThreadLocalRandom.current().nextInt(100);
                    try {
                        if (fate < 3) {
                            continue; // its time runs out
                        }
                        if (fate < 6) {
                            consumer.changeInvisibleDuration(view, Duration.ofSeconds(1));
                            continue;
                        }
                        consumer.ack(view);
                        say("acked", body, group);
                    } catch (Exception e) {
                        say("settled", body, group);
                        complain("ack", e);
                    }
                }
            } catch (Exception e) {
                complain("receive", e);
                Thread.sleep(500);
            }
        }
    }

    private interface Work {
        void run() throws Exception;
    }

    private static void start(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception e) {
                complain("thread", e);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    public static void main(String[] arguments) throws Exception {
        endpoint = arguments[0];
        name = arguments[1];
        rate = Double.parseDouble(arguments[2]);
        Matcher matcher = Pattern.compile("\"(\\w+)\": *\\[\"([^\"]+)\", *\"([^\"]+)\"\\]").matcher(arguments[4]);
        while (matcher.find()) {
            String kind = matcher.group(1);
            String topic = matcher.group(2);
            String groupName = matcher.group(3);
            String group = ",\"group\":\"" + groupName + "\"";
            start(() -> produce(kind, topic));
            if (kind.equals("normal") || kind.equals("fifo")) {
                start(() -> persist(() -> PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration())
                    .setConsumerGroup(groupName).setMessageListener(view -> listen(view, group))
                    .setSubscriptionExpressions(Collections.singletonMap(topic, FilterExpression.SUB_ALL)).build()));
            } else {
                start(() -> consume(topic, groupName, group));
            }
        }
        int read;
        do {
            read = System.in.read();
        } while (read != '\n' && read != -1);
        sending = false;
        while (System.in.read() != -1) {
            continue;
        }
        running = false;
        Thread.sleep(6000);
        Runtime.getRuntime().halt(0);
    }
}
