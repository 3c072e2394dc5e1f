import java.io.*; import java.nio.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

/** RocketMQ's own Java client with its default settings; arguments and files as pace.py says. Sends are asynchronous: a blocking
 *  send would need a thread for each of the thousands that wait. */
public class RmqFailover {
  static final int SIZE = 1024, LOAD_SIZE = 16 * 1024, OK = 1, FAILED = 2;
  static final long IDLE_NS = 15_000_000_000L, FIRST_NS = 40_000_000_000L;

  public static void main(String[] a) throws Exception {
    if (a[0].equals("send")) send(a[1], a[2], Integer.parseInt(a[3]), a[4]);
    else if (a[0].equals("read")) read(a[1], a[2], a[3]);
    else load(a[1], a[2], Long.parseLong(a[3]));
    System.exit(0);
  }

  static DefaultMQProducer producer(String where) throws Exception {
    DefaultMQProducer p = new DefaultMQProducer("bench-" + ProcessHandle.current().pid());
    p.setNamesrvAddr(where); p.setCompressMsgBodyOverHowmuch(1 << 30);
    p.start();
    return p;
  }

  static void send(String where, String topic, int rate, String file) throws Exception {
    DefaultMQProducer p = producer(where);
    p.fetchPublishMessageQueues(topic);
    DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(file, true), 1 << 16));
    byte[] pad = new byte[SIZE]; new Random(1).nextBytes(pad);
    AtomicLong ended = new AtomicLong(); ConcurrentHashMap<String, Integer> failures = new ConcurrentHashMap<>();
    AtomicBoolean stopped = new AtomicBoolean(); CountDownLatch finished = new CountDownLatch(1);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      stopped.set(true);
      try { finished.await(); } catch (InterruptedException e) { }
    }));
    long begun = System.nanoTime(), called = 0, flushed = begun;
    System.out.println("running");
    while (!stopped.get()) {
      long until = (System.nanoTime() - begun) * rate / 1_000_000_000L + 1;
      for (; called < until; called++) {
        byte[] b = pad.clone(); long number = called, at = System.nanoTime();
        ByteBuffer.wrap(b).order(ByteOrder.LITTLE_ENDIAN).putLong(number);
        SendCallback back = new SendCallback() {
          public void onSuccess(SendResult r) {
            if (r.getSendStatus() != SendStatus.SEND_OK) failures.merge(r.getSendStatus().toString(), 1, Integer::sum);
            record(out, number, at, r.getSendStatus() == SendStatus.SEND_OK ? OK : FAILED); ended.incrementAndGet();
          }
          public void onException(Throwable e) { failed(e); record(out, number, at, FAILED); ended.incrementAndGet(); }
          void failed(Throwable e) {
            String s = (e.getClass().getSimpleName() + ": " + e.getMessage()).replace('\n', ' ');
            if (failures.size() < 50) failures.merge(s.substring(0, Math.min(80, s.length())), 1, Integer::sum);
          }
        };
        try { p.send(new Message(topic, b), back); } catch (Exception e) { back.onException(e); }
      }
      Thread.sleep(1);
      if (System.nanoTime() - flushed > 20_000_000L) { flushed = System.nanoTime(); synchronized (out) { out.flush(); } }
    }
    for (int i = 0; i < 200 && ended.get() < called; i++) Thread.sleep(100);
    synchronized (out) { out.close(); }
    System.out.println("called " + called);
    failures.forEach((k, v) -> System.out.println("failed " + v + " " + k));
    System.out.flush();
    finished.countDown();
    Thread.sleep(60_000);
  }

  static void record(DataOutputStream out, long number, long called, int outcome) {
    ByteBuffer b = ByteBuffer.allocate(25).order(ByteOrder.LITTLE_ENDIAN);
    b.putLong(number).putLong(called).putLong(System.nanoTime()).put((byte) outcome);
    synchronized (out) { try { out.write(b.array()); } catch (IOException e) { } }
  }

  static void load(String where, String topic, long mib) throws Exception {
    DefaultMQProducer p = producer(where);
    long n = mib * 1024 * 1024 / LOAD_SIZE; AtomicLong next = new AtomicLong(); AtomicReference<Throwable> bad = new AtomicReference<>();
    ExecutorService ex = Executors.newFixedThreadPool(16);
    for (int k = 0; k < 16; k++) ex.submit(() -> {
      while (next.getAndIncrement() < n) {
        try { p.send(new Message(topic, new byte[LOAD_SIZE])); } catch (Exception e) { bad.set(e); }
      }
    });
    ex.shutdown(); ex.awaitTermination(30, TimeUnit.MINUTES);
    if (bad.get() != null) System.err.println("some of the load failed, the last with " + bad.get());
  }

  static void read(String where, String topic, String file) throws Exception {
    DefaultLitePullConsumer c = new DefaultLitePullConsumer("reader-" + System.nanoTime());
    c.setNamesrvAddr(where); c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET); c.setPullBatchSize(32);
    c.subscribe(topic, "*"); c.start();
    try (DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(file)))) {
      long last = System.nanoTime(); boolean any = false;
      while (System.nanoTime() - last < (any ? IDLE_NS : FIRST_NS)) for (MessageExt x : c.poll(500)) {
        out.writeLong(ByteBuffer.wrap(x.getBody()).getLong());  // as it is in the body: little endian
        last = System.nanoTime(); any = true;
      }
    }
  }
}
