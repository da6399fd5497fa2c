/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_DMA_H
#define KERNEL_DMA_H
/*
 * From a pointer to what a device may be told, and back. A subtraction today, and the one place for
 * an IOMMU, a 32-bit controller or a non-coherent board. `p` points into page-allocator memory, a
 * pool, a coroutine stack or a mapped BAR window: all of these lie in the linear map; the image's
 * own .data/.bss do not and must not be given to a device. On the host form DMA addresses are
 * pointers (the loopback devices run in the same process). DMA memory is returned only after the
 * device is known to have stopped.
 */
#include "kernel/compiler.h"

#ifdef SR_FORM_FW
#include "boot/arch.h"
#define DMA_LINEAR ARCH_LINEAR_BASE
#else
#define DMA_LINEAR 0ull
#endif

static inline uint64_t dma_map(const void *p, size_t len)
{
    (void)len;
    return (uint64_t)(uintptr_t)p - DMA_LINEAR;
}
static inline void dma_unmap(uint64_t addr, size_t len)
{
    (void)addr, (void)len;
}

/* Ordering between CPU stores/loads to memory shared with a device (or with a device model on
 * another loop). dma_wmb is also what stands between a ring and the register that rings its bell,
 * and dma_rmb between a register that tells of a completion and what was completed. On x86 these
 * are nothing but the compiler's; Arm's processors are told to include devices, which may be
 * outside of the domain that fences of C speak of. */
#if defined(SR_FORM_FW) && defined(__aarch64__)
static inline void dma_wmb(void)
{
    __asm__ volatile("dmb osh" : : : "memory");
}
static inline void dma_rmb(void)
{
    __asm__ volatile("dmb oshld" : : : "memory");
}
static inline void dma_mb(void)
{
    __asm__ volatile("dmb osh" : : : "memory");
}
#else
static inline void dma_wmb(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}
static inline void dma_rmb(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}
static inline void dma_mb(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif
#endif
