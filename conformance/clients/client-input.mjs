// The input of a client program, and its output: one JSON object of results by operation.
export const input = JSON.parse(process.env.CONFORMANCE);

export async function report(operations) {
  const results = {};
  for (const [name, operation] of Object.entries(operations)) {
    try {
      results[name] = { got: await operation() };
    } catch (error) {
      results[name] = { error: error.status ?? error.statusCode ?? error.response?.status ?? String(error) };
    }
  }
  console.log(JSON.stringify(results));
}
