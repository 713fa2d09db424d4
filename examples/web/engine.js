/**
 * The page's side of worker.js.
 *
 * @typedef {{code: string, message: string, why?: string}} Failure
 */

/** What went wrong in the network, with the library's code for it, and `why` there is no GPU where that is it. */
export class EngineError extends Error {
  /** @param {Failure} failure */
  constructor({ code, message, why }) {
    super(message);
    this.name = 'EngineError';
    this.code = code;
    this.why = why;
  }
}

/**
 * A worker is bound by the policy of its own response; one that a blob: address starts takes over this page's, which a host that
 * sends no headers can only give in the page.
 */
const PROGRAM = URL.createObjectURL(
  new Blob([`import ${JSON.stringify(new URL('./worker.js', import.meta.url).href)};`], { type: 'text/javascript' }),
);

/** Sends 'progress' ({loaded, total, stage}) and 'lost' ({reason}) as events with a `detail`. */
export class Engine extends EventTarget {
  #worker = new Worker(PROGRAM, { type: 'module', name: 'network' });
  #calls = new Map();
  #next = 1;
  /** Whether the worker's program runs. */
  #started = false;
  /** @type {Failure | null}  Why no call will be answered any more. */
  #ended = null;

  constructor() {
    super();
    this.#worker.onmessage = ({ data }) => {
      if (data.event === 'started') {
        this.#started = true;
        return;
      }
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
      // What is thrown has a message; a script that does not arrive has none.
      if (this.#started || event.message) this.#failed(event.message || 'an error without a message');
      else this.#end({ code: 'network', message: 'the network program did not load; check the connection' });
    };
    this.#worker.onmessageerror = () => this.#failed('an answer that cannot be read');
  }

  /**
   * Calls a method of the worker.
   * @param {string} method
   * @param {...any} args
   * @returns {Promise<any>}
   */
  call(method, ...args) {
    if (this.#ended) return Promise.reject(new EngineError(this.#ended));
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, args });
    });
  }

  /** Ends the worker; calls that are still open fail. */
  close() {
    this.#worker.terminate();
    this.#end({ code: 'closed', message: 'the network was started afresh' });
  }

  /** An error within the worker that no call answers with. */
  #failed(message) {
    this.#end({ code: 'internal', message: `the network program ended (${message}); reload the page, and please report this` });
  }

  /** @param {Failure} failure */
  #end(failure) {
    this.#ended ??= failure;
    for (const { reject } of this.#calls.values()) reject(new EngineError(failure));
    this.#calls.clear();
  }
}
