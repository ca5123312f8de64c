/** An error that is explained to the user: a message instead of a stack trace, and an exit status. */
export class CommandError extends Error {
  /**
   * @param {string} message
   * @param {number} [status]
   */
  constructor(message, status = 1) {
    super(message);
    this.status = status;
  }
}

/** Wrong usage of the command. */
export class UsageError extends CommandError {
  /** @param {string} message */
  constructor(message) {
    super(`${message}\nTry \`reprise --help\`.`, 2);
  }
}
