/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_PAGE_H
#define KERNEL_PAGE_H
/*
 * The page allocator: physically contiguous runs of 4 KiB pages inside the linear map, so that all
 * of them are DMA targets. Control path and start-up only; the data path uses pools, whose memory
 * comes from here. Lengths are bytes, rounded up to pages. First fit over a bitmap; memory is not
 * zeroed unless asked. Loop 0 only. NULL when there is no such run.
 */
#include "kernel/compiler.h"

#define PAGE_SIZE 4096u

void page_init(void); /* takes board_memory(); once */
void *page_alloc(size_t bytes);
void *page_alloc_zeroed(size_t bytes);
void page_free(void *p, size_t bytes);
size_t page_free_bytes(void); /* sum of free pages */
size_t page_total_bytes(void);
/* newlib.c: the C library's heap (control path), one run of pages. On the host the C library has its
 * own and this does nothing. */
void heap_init(size_t bytes);
#endif
