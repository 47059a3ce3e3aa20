"""The public names, used together as in the README."""

import jax
import jax.numpy as jnp

import ofav2_jax as ofa


def test_names_and_shapes():
    net = ofa.SuperNet(network="ee_dp", width_multiplier=0.1, num_classes=7)
    hash(net)
    subnet = ofa.Subnet(kernel=(7,) * 20, expand=(6,) * 20, depth=(4,) * 5, level=(7,) * 20, height=5)
    assert subnet == ofa.Subnet.uniform(kernel=7, expand=6, depth=4, level=7, height=5)
    images = jnp.ones((2, 16, 16, 3)) * jnp.arange(2.0)[:, None, None, None]
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, subnet))
    assert set(shapes) == {"params", "batch_stats"}
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)
    small = ofa.Subnet.uniform(kernel=3, expand=3, depth=2, level=4, height=2)

    def shape_of(function, *args, **further):
        # Traced, not compiled: other tests look at the values.
        return jax.eval_shape(lambda variables: function(net, variables, *args, **further), variables)

    assert shape_of(ofa.forward, images, small, train=False).shape == (2, 7)
    assert shape_of(ofa.forward_exits, images, small, train=False).shape == (5, 2, 7)
    assert shape_of(ofa.forward_masked, images, [small, subnet], train=False).shape == (2, 2, 7)
    assert set(shape_of(ofa.recalibrate, [images, images[:1]], small)) == {"params", "batch_stats"}
    of_two = shape_of(ofa.recalibrate_masked, [images], [small, subnet])
    assert of_two["batch_stats"]["exit_1"]["expand_bn"]["mean"].shape[0] == 2
    assert jax.tree.structure(shape_of(ofa.sort_channels, width_phase=1)) == jax.tree.structure(variables)
    cost = ofa.count(net, small, resolution=64)
    assert cost.params > 0 and cost.macs > 0
    assert ofa.exit_weights("desc", 5).shape == (5,)
    assert callable(ofa.load_torch)
    space = ofa.SearchSpace(net).restrict(kernel=(3, 5))
    assert space.contains(space.sample(jax.random.key(0), 3)[2])
    assert len(list(space.uniform_subnets())) == 2 * 3 * 3 * 7 * 5


def test_every_public_name_is_there():
    assert sorted(ofa.__all__) == sorted(ofa._MODULES)
    assert all(getattr(ofa, name) is not None for name in ofa.__all__)
    assert set(ofa.__all__) <= set(dir(ofa))
