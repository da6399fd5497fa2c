/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernel/log.h"
#include "kernel/nic.h"

static struct list nics = LIST_INIT(nics);
static unsigned count;

void nic_register(struct nic *n)
{
    const uint8_t *m = n->mac;
    n->index = count++;
    list_append(&nics, &n->link);
    log_plain("nic %u: mac %02x:%02x:%02x:%02x:%02x:%02x mtu %u%s%s%s", n->index, m[0], m[1], m[2],
              m[3], m[4], m[5], n->mtu, n->features & NIC_CSUM ? " csum" : "",
              n->features & NIC_TSO4 ? " tso" : "", n->features & NIC_GUEST_TSO ? " lro" : "");
}

struct nic *nic_find(unsigned index)
{
    list_for_each (n, &nics, struct nic, link)
        if (n->index == index)
            return n;
    return NULL;
}

unsigned nic_count(void)
{
    return count;
}
