/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ivshmem-doorbell devices (ivshmem_hw.h): each shows a sibling's memory in a BAR and rings its
 * interrupts. This is the one file that knows how siblings' memory comes to us.
 *
 * The device's number tells whose it is: one more than the sibling's (bridge_spec.h). Its vectors are
 * the kicks of that sibling; all send the same message, for an interrupt only wakes the loop, which
 * looks at every ring. Memory is mapped once and stays; decoding is never switched off, since disks
 * may be writing there.
 */
#include "virtio/device/ivshmem_hw.h"

#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/loop.h"
#include "kernel/pci.h"
#include "virtio/device/sibling.h"
#include "virtio/mmio.h"

#define VECTORS_MAX 256u /* programming one costs four trips to the device */

struct ivshmem {
    struct sibling_link link;
    volatile void *registers;
};

static void ring(struct sibling_link *l, uint32_t call)
{
    reg_write(container_of(l, struct ivshmem, link)->registers, IVSHMEM_DOORBELL, 4, call);
}

static bool match(const struct pci_dev *p)
{
    return p->vendor == IVSHMEM_VENDOR && p->device == IVSHMEM_DEVICE;
}

static int refuse(const struct pci_dev *p, const char *why)
{
    log_line("ivshmem", "pci %s: %s", p->name, why);
    return SR_ENODEV;
}

static int program_vectors(struct pci_dev *p, unsigned count)
{
    static struct irq wake;
    static bool there;
    int rc = there ? 0 : irq_alloc(&wake, 0);
    there |= !rc;
    if (!rc)
        rc = pci_msix_enable(p);
    for (unsigned i = 0; !rc && i < count; i++)
        rc = pci_msix_set(p, i, &wake);
    return rc;
}

static int attach(struct ivshmem *v, struct pci_dev *p)
{
    const struct pci_bar *memory = &p->bar[IVSHMEM_MEMORY];
    if (!memory->size || p->bar[IVSHMEM_REGISTERS].size < IVSHMEM_SIZE || !p->msix_vectors)
        return refuse(p, "no doorbell");
    pci_enable(p);
    v->registers = pci_bar_map(p, IVSHMEM_REGISTERS);
    v->link.memory = (uint8_t *)(uintptr_t)mmio_map_memory(memory->phys, memory->size);
    if (!v->registers || !memory->phys || !v->link.memory)
        return refuse(p, "its memory cannot be mapped");
    uint32_t position = reg_read(v->registers, IVSHMEM_IVPOSITION, 4);
    if (!position || position > BRIDGE_SIBLINGS || sibling_link_find(position - 1))
        return refuse(p, "it is nobody's memory");
    v->link.number = position - 1;
    v->link.size = memory->size;
    v->link.vectors = MIN(p->msix_vectors, VECTORS_MAX);
    v->link.ring = ring;
    return program_vectors(p, v->link.vectors);
}

static int probe(struct pci_dev *p)
{
    struct ivshmem *v = sr_calloc(1, sizeof(*v));
    if (!v)
        return SR_ENOMEM;
    int rc = attach(v, p);
    if (rc) {
        sr_free(v);
        return rc == SR_ENODEV ? 0 : rc; /* a line has said so */
    }
    p->driver_data = v;
    sibling_link_announce(&v->link);
    log_line("ivshmem", "pci %s: memory of sibling %u, %llu MiB, %u vectors", p->name,
             v->link.number, (unsigned long long)(v->link.size >> 20), v->link.vectors);
    return 0;
}

static const struct pci_driver ivshmem_driver = {.name = "ivshmem", .match = match, .probe = probe};
REGISTER(pci_driver, ivshmem_driver);
