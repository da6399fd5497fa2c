/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_X86_64_PTE_H
#define BOOT_X86_64_PTE_H
/* The x86_64 side of boot/pte.h. Source: Intel SDM volume 3, section 4.5. */
#include "boot/boot.h"
#include "boot/vm.h"
#include "boot/x86_64/cpu.h"

#define PTE_PRESENT      0x001ull
#define PTE_W            0x002ull
#define PTE_PWT          0x008ull
#define PTE_PCD          0x010ull
#define PTE_LARGE        0x080ull
#define PTE_GUARD        0x200ull /* free for us */
#define PTE_NX           (1ull << 63)
#define FIRST_TABLES_END 0x40000000ull
#define PTE_ADDR         0x000ffffffffff000ull

static inline bool pte_present(uint64_t e)
{
    return e & PTE_PRESENT;
}
static inline bool pte_is_table(uint64_t e)
{
    return (e & (PTE_PRESENT | PTE_LARGE)) == PTE_PRESENT;
}
static inline uint64_t pte_leaf(uint64_t pa, unsigned flags, unsigned level)
{
    return pa | PTE_PRESENT | (level ? PTE_LARGE : 0) | (flags & VM_WRITE ? PTE_W : 0) |
           (flags & VM_EXEC ? 0 : PTE_NX) | (flags & VM_UNCACHED ? PTE_PCD | PTE_PWT : 0);
}
static inline uint64_t pte_table(uint64_t pa)
{
    return pa | PTE_PRESENT | PTE_W;
}
static inline uint64_t pte_child(uint64_t leaf, unsigned level)
{
    return level > 1 ? leaf : leaf & ~PTE_LARGE;
}
static inline void pte_set(uint64_t *e, uint64_t va, uint64_t v)
{
    uint64_t old = *e;
    *e = v;
    if (old & PTE_PRESENT)
        invlpg(va);
}
static inline void pte_sync(void)
{
}
static inline void *pte_memory(uint64_t phys)
{
    return phys_to_linear(phys);
}
static inline bool arch_address_ok(uint64_t va)
{
    return va >> 47 == 0 || va >> 47 == 0x1ffff;
}
#endif
