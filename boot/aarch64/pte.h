/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_PTE_H
#define BOOT_AARCH64_PTE_H
/*
 * The aarch64 side of boot/pte.h. Source: Arm ARM D8.3 (descriptors), D8.16.1 (break before make).
 *
 * A valid entry may change its permissions in place. Any other change, a block that becomes a table
 * above all, must go through an invalid entry, and meanwhile nothing that it maps can be used:
 * mmu_replace.
 */
#include "boot/boot.h"
#include "boot/vm.h"

#define PTE_PRESENT      0x001ull
#define PTE_TABLE        0x002ull    /* at level 0: a page */
#define PTE_DEVICE       (1ull << 2) /* index into MAIR: 0 normal, 1 device (start.S) */
#define PTE_READ_ONLY    (1ull << 7) /* AP[2] */
#define PTE_INNER_SHARE  (3ull << 8)
#define PTE_ACCESS_FLAG  (1ull << 10)
#define PTE_PXN          (1ull << 53)
#define PTE_UXN          (1ull << 54)
#define PTE_GUARD        (1ull << 55) /* free for us */
#define PTE_ADDR         0x0000fffffffff000ull
#define PTE_IN_PLACE     (PTE_READ_ONLY | PTE_PXN | PTE_UXN | PTE_GUARD)
#define FIRST_TABLES_END (1ull << 47) /* vm_init maps what it needs first */

/* mmu.c */
void mmu_replace(uint64_t *e, uint64_t va, uint64_t v);
void *pte_memory(uint64_t phys);

static inline bool pte_present(uint64_t e)
{
    return e & PTE_PRESENT;
}
static inline bool pte_is_table(uint64_t e)
{
    return (e & (PTE_PRESENT | PTE_TABLE)) == (PTE_PRESENT | PTE_TABLE);
}
static inline uint64_t pte_leaf(uint64_t pa, unsigned flags, unsigned level)
{
    return pa | PTE_PRESENT | (level ? 0 : PTE_TABLE) | PTE_INNER_SHARE | PTE_ACCESS_FLAG |
           PTE_UXN | (flags & VM_WRITE ? 0 : PTE_READ_ONLY) | (flags & VM_EXEC ? 0 : PTE_PXN) |
           (flags & VM_UNCACHED ? PTE_DEVICE : 0);
}
static inline uint64_t pte_table(uint64_t pa)
{
    return pa | PTE_PRESENT | PTE_TABLE;
}
static inline uint64_t pte_child(uint64_t leaf, unsigned level)
{
    return level > 1 ? leaf : leaf | PTE_TABLE;
}
static inline void pte_sync(void)
{
    __asm__ volatile("dsb ishst; isb" : : : "memory");
}
static inline void tlb_drop(uint64_t va)
{
    __asm__ volatile("dsb ishst; tlbi vaae1is, %0; dsb ish; isb"
                     :
                     : "r"(va >> 12 & ((1ull << 44) - 1))
                     : "memory");
}
static inline void pte_set(uint64_t *e, uint64_t va, uint64_t v)
{
    uint64_t old = *e;
    if (old & v & PTE_PRESENT && (old ^ v) & ~PTE_IN_PLACE) {
        mmu_replace(e, va, v);
        return;
    }
    *(volatile uint64_t *)e = v;
    if (old & PTE_PRESENT)
        tlb_drop(va);
}
/* Only the upper half has tables. */
static inline bool arch_address_ok(uint64_t va)
{
    return va >> 48 == 0xffff;
}
#endif
