export { ChainedHashPrefixCache } from './chained-hash-prefix-cache.js';
export { checkIntegrity } from './integrity.js';
export {
  type BeginOptions,
  KvCacheManager,
  type KvCacheManagerOptions,
  type KvCacheStats,
} from './kv-cache-manager.js';
export { PagePool } from './page-pool.js';
export { PageTable } from './page-table.js';
export { NO_PAGE, type PrefixCache } from './prefix-cache.js';
export { SequencePages } from './sequence-pages.js';
export { SpeculativeLengths } from './speculative-lengths.js';
export { hashNamespace, hashTokens, type TokenHash } from './token-hash.js';
