// What an answer says, whichever way it is carried.

/** The frames' data of an event stream, in order. */
export function events(text) {
  return text.replace(/\r\n?/g, '\n').split('\n\n')
    .map((frame) => frame.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart()).join('\n'))
    .filter((data) => data !== '');
}

export const isStream = (reply) => /^text\/event-stream\b/.test(reply.headers['content-type'] ?? '');

/** { text, ended, usage } of a chat, completion, response or message; undefined of anything else. */
export function understood(reply) {
  const text = reply.body.toString();
  return isStream(reply) ? fromStream(events(text)) : fromObject(json(text));
}

function fromObject(object) {
  if (object === undefined) return undefined;
  const { choices, output, content, usage } = object;
  const usual = { ended: true, usage: Boolean(usage) };
  if (choices) return { ...usual, text: choices.map((choice) => choice.message?.content ?? choice.text ?? '').join('') };
  if (output) return { ...usual, text: output.flatMap((item) => item.content ?? []).map((part) => part.text ?? '').join('') };
  if (Array.isArray(content)) return { ...usual, text: content.map((part) => part.text ?? '').join('') };
  return undefined;
}

function fromStream(all) {
  let said = '';
  let ended = false;
  let usage = false;
  for (const data of all) {
    if (data === '[DONE]') {
      ended = true;
      continue;
    }
    const event = json(data);
    if (event === undefined) return undefined;
    if (event.usage || event.response?.usage) usage = true;
    if (event.type === 'message_stop' || event.type === 'response.completed') ended = true;
    if (event.type === 'response.output_text.delta') said += event.delta;
    if (event.type === 'content_block_delta') said += event.delta.text ?? '';
    for (const choice of event.choices ?? []) said += choice.delta?.content ?? choice.text ?? '';
  }
  return { text: said, ended, usage };
}

export function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
