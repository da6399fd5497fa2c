/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_PVH_SPEC_H
#define BOOT_PVH_SPEC_H
/* The PVH boot records: Xen's public interface, arch-x86/hvm/start_info.h, versions 0 and 1. */
#include <assert.h>
#include <stdint.h>

#define HVM_START_MAGIC     0x336ec578u
#define HVM_MEMMAP_RAM      1u
#define HVM_MEMMAP_RESERVED 2u

struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
    uint64_t memmap_paddr; /* from version 1 on */
    uint32_t memmap_entries, reserved;
};
static_assert(sizeof(struct hvm_start_info) == 56, "");
struct hvm_modlist_entry {
    uint64_t paddr, size, cmdline_paddr, reserved;
};
static_assert(sizeof(struct hvm_modlist_entry) == 32, "");
struct hvm_memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};
static_assert(sizeof(struct hvm_memmap_entry) == 24, "");
#endif
