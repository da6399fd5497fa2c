/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * zstd's compressor with one strategy. Its default level means "dfast" for input of any size; the
 * others, long distance matching and dictionaries would be two thirds of the code (300 KB) and never
 * run. zstd_compress.c alone is compiled with this before it: what is left out is not called, and
 * is NULL where a table names it. (Later versions have ZSTD_EXCLUDE_*_BLOCK_COMPRESSOR for it.)
 */
#ifndef STRONGROOM_ZSTD_DFAST_H
#define STRONGROOM_ZSTD_DFAST_H

#include "zstd_double_fast.h"

/* The headers of the others. */
#define ZSTD_FAST_H
#define ZSTD_LAZY_H
#define ZSTD_OPT_H
#define ZSTD_LDM_H
#define ZSTD_ROW_HASH_TAG_BITS      8
#define ZSTD_LAZY_DDSS_BUCKET_LOG   2
#define ZSTD_LDM_DEFAULT_WINDOW_LOG ZSTD_WINDOWLOG_LIMIT_DEFAULT

/* clang-format off */
#define ZSTD_compressBlock_fast                              NULL
#define ZSTD_compressBlock_fast_extDict                      NULL
#define ZSTD_compressBlock_fast_dictMatchState               NULL
#define ZSTD_compressBlock_doubleFast_extDict                NULL
#define ZSTD_compressBlock_doubleFast_dictMatchState         NULL
#define ZSTD_compressBlock_greedy                            NULL
#define ZSTD_compressBlock_greedy_extDict                    NULL
#define ZSTD_compressBlock_greedy_dictMatchState             NULL
#define ZSTD_compressBlock_greedy_dedicatedDictSearch        NULL
#define ZSTD_compressBlock_greedy_row                        NULL
#define ZSTD_compressBlock_greedy_extDict_row                NULL
#define ZSTD_compressBlock_greedy_dictMatchState_row         NULL
#define ZSTD_compressBlock_greedy_dedicatedDictSearch_row    NULL
#define ZSTD_compressBlock_lazy                              NULL
#define ZSTD_compressBlock_lazy_extDict                      NULL
#define ZSTD_compressBlock_lazy_dictMatchState               NULL
#define ZSTD_compressBlock_lazy_dedicatedDictSearch          NULL
#define ZSTD_compressBlock_lazy_row                          NULL
#define ZSTD_compressBlock_lazy_extDict_row                  NULL
#define ZSTD_compressBlock_lazy_dictMatchState_row           NULL
#define ZSTD_compressBlock_lazy_dedicatedDictSearch_row      NULL
#define ZSTD_compressBlock_lazy2                             NULL
#define ZSTD_compressBlock_lazy2_extDict                     NULL
#define ZSTD_compressBlock_lazy2_dictMatchState              NULL
#define ZSTD_compressBlock_lazy2_dedicatedDictSearch         NULL
#define ZSTD_compressBlock_lazy2_row                         NULL
#define ZSTD_compressBlock_lazy2_extDict_row                 NULL
#define ZSTD_compressBlock_lazy2_dictMatchState_row          NULL
#define ZSTD_compressBlock_lazy2_dedicatedDictSearch_row     NULL
#define ZSTD_compressBlock_btlazy2                           NULL
#define ZSTD_compressBlock_btlazy2_extDict                   NULL
#define ZSTD_compressBlock_btlazy2_dictMatchState            NULL
#define ZSTD_compressBlock_btopt                             NULL
#define ZSTD_compressBlock_btopt_extDict                     NULL
#define ZSTD_compressBlock_btopt_dictMatchState              NULL
#define ZSTD_compressBlock_btultra                           NULL
#define ZSTD_compressBlock_btultra_extDict                   NULL
#define ZSTD_compressBlock_btultra_dictMatchState            NULL
#define ZSTD_compressBlock_btultra2                          NULL

/* Only when a dictionary is loaded. */
#define ZSTD_fillHashTable(ms, end, dtlm, tfp)               ((void)0)
#define ZSTD_row_update(ms, ip)                              ((void)0)
#define ZSTD_insertAndFindFirstIndex(ms, ip)                 ((void)0)
#define ZSTD_updateTree(ms, ip, end)                         ((void)0)
#define ZSTD_dedicatedDictSearch_lazy_loadDictionary(ms, ip) ((void)0)

/* Only when long distance matching is enabled. */
#define ZSTD_ldm_adjustParameters(params, c)                 ((void)0)
#define ZSTD_ldm_getTableSize(params)                        ((size_t)0)
#define ZSTD_ldm_getMaxNbSeq(params, n)                      ((size_t)0)
#define ZSTD_ldm_fillHashTable(state, ip, end, params)       ((void)0)
#define ZSTD_ldm_generateSequences(st, seq, params, p, n)    ((size_t)0)
#define ZSTD_ldm_blockCompress(raw, ms, seq, rep, row, p, n) ((size_t)0)
#define ZSTD_ldm_skipRawSeqStoreBytes(raw, n)                ((void)0)
#define ZSTD_ldm_skipSequences(raw, n, match)                ((void)0)
/* clang-format on */

#endif
