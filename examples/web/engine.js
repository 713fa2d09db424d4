/**
 * The page's side of worker.js.
 *
 * @typedef {{code: string, message: string}} Failure
 */

/** What went wrong in the network, with the library's code for it. */
export class EngineError extends Error {
  /** @param {Failure} failure */
  constructor({ code, message }) {
    super(message);
    this.name = 'EngineError';
    this.code = code;
  }
}

/** Sends 'progress' ({loaded, total, stage}) and 'lost' ({reason}) as events with a `detail`. */
export class Engine extends EventTarget {
  #worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  #calls = new Map();
  #next = 1;

  constructor() {
    super();
    this.#worker.onmessage = ({ data }) => {
      if (data.event) {
        this.dispatchEvent(new CustomEvent(data.event, { detail: data }));
        return;
      }
      const call = this.#calls.get(data.id);
      this.#calls.delete(data.id);
      if (data.error) call?.reject(new EngineError(data.error));
      else call?.resolve(data.value);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail({ code: 'network', message: event.message || 'the network program did not load' });
    };
  }

  /**
   * Calls a method of the worker.
   * @param {string} method
   * @param {...any} args
   * @returns {Promise<any>}
   */
  call(method, ...args) {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, args });
    });
  }

  /** Ends the worker; calls that are still open fail. */
  close() {
    this.#worker.terminate();
    this.#fail({ code: 'closed', message: 'the network was started afresh' });
  }

  /** @param {Failure} failure */
  #fail(failure) {
    for (const { reject } of this.#calls.values()) reject(new EngineError(failure));
    this.#calls.clear();
  }
}
