// The types of the Workers runtime that src/worker/*.js uses, for the type check of the programs that run on Node.
// tsconfig.json checks those modules against the types of the runtime itself.

declare var IdentityTransformStream: new () => TransformStream;
declare var FixedLengthStream: new (length: number) => TransformStream;

interface KVNamespace {
  get(key: string, type: "arrayBuffer"): Promise<ArrayBuffer>;
  get(key: string, type: "stream"): Promise<ReadableStream>;
  delete(key: string): Promise<void>;
  list(options: object): Promise<{ keys: { name: string }[]; list_complete: boolean; cursor?: string }>;
}

interface Response {
  webSocket?: WebSocket | null;
}

interface ResponseInit {
  webSocket?: WebSocket | null;
}
