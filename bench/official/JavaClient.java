import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/**
 * The official Java client, plaintext: 16 threads that each send 1 KiB and wait, or that receive up to 32 messages and acknowledge
 * each. Arguments: send|receive endpoint topic group count. A tenth of the count warms it up before anything is counted.
 */
public final class JavaClient {
    private static final int THREADS = 16;

    private JavaClient() {
    }

    private interface Work {
        /** How many messages it did. */
        int once() throws Exception;
    }

    private static volatile long last;

    /** Until so many are done, or a thread finds nothing; what each took, sorted. */
    private static long[] run(int count, Work work) throws InterruptedException {
        AtomicInteger left = new AtomicInteger(count);
        List<Thread> threads = new ArrayList<>();
        List<Long> times = Collections.synchronizedList(new ArrayList<>());
        long end = System.nanoTime() + 120_000_000_000L;
        for (int i = 0; i < THREADS; i++) {
            Thread thread = new Thread(() -> {
                while (left.get() > 0 && System.nanoTime() < end) {
                    long began = System.nanoTime();
                    try {
                        int done = work.once();
                        if (done == 0) {
                            return;
                        }
                        last = System.nanoTime();
                        long each = (last - began) / done;
                        left.addAndGet(-done);
                        for (int k = 0; k < done; k++) {
                            times.add(each);
                        }
                    } catch (Exception failure) {
                        System.err.println(failure);
                    }
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (left.get() > count / 10) {
            throw new IllegalStateException(left.get() + " of " + count + " are missing");
        }
        return times.stream().mapToLong(Long::longValue).sorted().toArray();
    }

    public static void main(String[] args) throws Exception {
        String topic = args[2];
        int count = Integer.parseInt(args[4]);
        ClientServiceProvider provider = ClientServiceProvider.loadService();
        ClientConfiguration configuration = ClientConfiguration.newBuilder().setEndpoints(args[1]).enableSsl(false).build();
        Work work;
        AutoCloseable client;
        if (args[0].equals("send")) {
            Producer producer = provider.newProducerBuilder().setClientConfiguration(configuration).setTopics(topic).build();
            byte[] body = new byte[1024];
            Arrays.fill(body, (byte) 'x');
            client = producer;
            work = () -> {
                Message message = provider.newMessageBuilder().setTopic(topic).setBody(body).build();
                producer.send(message);
                return 1;
            };
        } else {
            SimpleConsumer consumer = provider.newSimpleConsumerBuilder().setClientConfiguration(configuration)
                .setConsumerGroup(args[3]).setAwaitDuration(Duration.ofSeconds(5))
                .setSubscriptionExpressions(Collections.singletonMap(topic, FilterExpression.SUB_ALL)).build();
            client = consumer;
            work = () -> {
                List<MessageView> found = consumer.receive(32, Duration.ofSeconds(60));
                for (MessageView message : found) {
                    consumer.ack(message);
                }
                return found.size();
            };
        }
        int warm = count / 10;
        run(warm, work);
        long began = System.nanoTime();
        long[] times = run(args[0].equals("send") ? count - warm : count - warm - THREADS * 32, work); // the warm-up may take more
        double seconds = (last - began) / 1e9;
        System.out.println(String.format(Locale.ROOT,
            "{\"rate\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"messages\": %d}", times.length / seconds,
            times[times.length / 2] / 1e3, times[(int) (times.length * 0.99)] / 1e3, times.length));
        client.close();
        System.exit(0);
    }
}
