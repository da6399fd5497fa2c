/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_PTE_H
#define BOOT_PTE_H
/*
 * One entry of a page table; every architecture's pte.h supplies exactly this, for boot/vm.c.
 *
 *   PTE_ADDR PTE_PRESENT PTE_GUARD    bits: the address, in use, (of those not in use) a guard page
 *   pte_present, pte_is_table         of an entry; a leaf is present and no table
 *   pte_leaf, pte_table               make one
 *   pte_child                         what the first entry of the table below must be, when the
 *                                     leaf at `level` is split
 *   pte_set                           changes an entry that maps va; the old one is no longer used
 *                                     by the processor afterwards
 *   pte_sync                          what pte_set made of unused entries is seen by the next access
 *   pte_memory                        where a table can be read and written
 *   FIRST_TABLES_END                  physical memory that can be used before vm_init
 *   arch_address_ok                   can this be an address at all?
 */
#if defined(__x86_64__)
#include "boot/x86_64/pte.h"
#elif defined(__aarch64__)
#include "boot/aarch64/pte.h"
#endif
#endif
