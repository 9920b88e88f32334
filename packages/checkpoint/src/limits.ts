/** Sizes beyond which a file is taken to be damaged (or hostile) rather than large. All far above any real model's. */

/** Bytes of a safetensors header: a real one has about 100 a tensor. */
export const MAX_SAFETENSORS_HEADER_BYTES = 32 * 1024 * 1024;
/** Bytes of `config.json`, `qspec.json`, a shard index. */
export const MAX_JSON_BYTES = 64 * 1024 * 1024;
/** Bytes of GGUF metadata and tensor table together; vocabularies are in there. */
export const MAX_GGUF_HEADER_BYTES = 256 * 1024 * 1024;
/** A tokeniser is the largest file that is copied along. */
export const MAX_COPIED_FILE_BYTES = 512 * 1024 * 1024;
export const MAX_GGUF_STRING_BYTES = 16 * 1024 * 1024;
export const MAX_GGUF_METADATA_ENTRIES = 65_536;
export const MAX_GGUF_ARRAY_DEPTH = 4;
export const MAX_GGUF_ALIGNMENT = 65_536;
export const MAX_TENSORS = 1_000_000;
export const MAX_TENSOR_RANK = 8;
export const MAX_TENSOR_NAME_LENGTH = 1024;

/**
 * Bytes read, converted or hashed in one go before the event loop gets its turn: 1-5 ms of work.
 * A multiple of 8 (every element size).
 */
export const CHUNK_BYTES = 2 * 1024 * 1024;
