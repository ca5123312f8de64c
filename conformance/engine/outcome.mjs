// The errors that end a case early. Every other one is an error of the engine.

/** An expectation does not hold. `wrong`: a client got a response to another request, or a part of one, as if it were its own. */
export class Failure extends Error {
  constructor(message, { wrong = false, notStored = false } = {}) {
    super(message);
    this.wrong = wrong;
    this.notStored = notStored;
  }
}

/** The gateway lacks what the case needs. */
export class NotApplicable extends Error {}

/** Nothing was stored, so nothing could go wrong. */
export class Inconclusive extends Error {}
