from newllm.publication.arm_tables import GLANCE, glance, sotu


def test_a_first_look_has_every_arm_of_the_full_table_in_its_order_and_what_it_recalls():
    short, full = glance(), sotu()
    assert tuple(short) == GLANCE
    for column in set(GLANCE) & set(full) - {"arm"}:
        assert list(short[column]) == list(full[column])
    assert not short["arm"].str.contains("[@=]").any()
