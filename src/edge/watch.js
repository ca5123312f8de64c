// A body that is given up when nothing comes for `idle` milliseconds. The clock runs only while the upstream is waited
// for: a slow client is no reason. `length` is the body's, where it is known.
export function watched(body, length, idle, call) {
  const reader = body.getReader();
  const stream = new ReadableStream(
    {
      async pull(controller) {
        const clock = setTimeout(() => call.abort(), idle);
        try {
          const { done, value } = await reader.read();
          if (done) controller.close();
          else controller.enqueue(value);
        } finally {
          clearTimeout(clock);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
  return length === undefined ? stream : stream.pipeThrough(new FixedLengthStream(length));
}
